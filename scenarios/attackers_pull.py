"""How far attackers move the mean of one round, against the size of what they send.

usage: python scenarios/attackers_pull.py [--exchanges 50] [--out runs/attackers-pull]

Devices, channel and uplinks are those of scenarios/attackers.toml, at the initial model; two of the ten devices send
their update turned round and F times as long. Written: OUT/pull.csv and OUT/pull.svg, ||mean with - mean without|| /
||mean without|| (root mean square over the exchanges, coding and channel noise in both, of the same draws), and in
OUT/pull.csv the largest that equation S2 of docs/equations.md allows where a bound holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from channel.codes import Code
from channel.uplinks import AnalogUplink, symbol_scale
from channel.uplinks.norm_bound import largest_pull
from clients.clipping import clip_to_norm
from fedmac import Scenario
from fedmac.build import build_uplink
from fedmac.build_defences import build_attack
from fedmac.build_devices import build_workplace

SCENARIO = Path(__file__).with_name("attackers.toml")
FACTORS = np.logspace(-1, 4, 11)
METHODS: Mapping[str, str] = {
    "mean of packets": "packets",
    "air, norms as said": "air",
    "air, clipped": "air-clipped",
    "air, bound for all": "air-bound",
    "air, bound, at full power": "air-bound-loud",
}
"""Variants of the scenario by what they are called in the figure."""


@dataclass
class Senders:
    """Devices with all their updates at hand; implements :class:`channel.uplinks.Cohort`."""

    rows: Tensor
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        self.total, self.size = self.rows.shape
        self.devices = np.arange(self.total)
        self.norms: NDArray[np.float64] = self.rows.norm(dim=1).numpy()

    def updates(self, gains: NDArray[np.float64]) -> Tensor:
        """Sums of updates."""
        return torch.from_numpy(gains) @ self.rows

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        """Sums of coded updates: of a linear code, which all are here, the code of the sums."""
        raise AssertionError("plain updates are at hand, and the code is linear")

    def symbols(self, code: Code, seed: int) -> Tensor:
        """Each device's."""
        return code.encode(self.rows, seed) * (symbol_scale(code, self.size) / self.rows.norm(dim=1, keepdim=True))


class Round:
    """The first round of a variant: what honest devices send, and what the server makes of that and of attackers."""

    def __init__(self, variant: str) -> None:
        (scenario,) = [one.scenario for one in Scenario.load(SCENARIO).resolve() if one.name == variant]
        self.scenario, self.uplink = scenario, build_uplink(scenario, scenario.seed)
        attack = build_attack(scenario, scenario.seed)
        assert attack is not None
        self.attackers = sorted(attack.devices)
        self.honest = self._honest()

    def _honest(self) -> Senders:
        work = build_workplace(self.scenario.model_copy(update={"attackers": type(self.scenario.attackers)()}), 0)
        start = work.trainer.state.clone()
        rows = []
        for device in range(len(work.data.parts)):
            state, _, _ = work.train(start, device, {"server-round": 1})
            rows.append((state - start).double())
        examples = np.array([len(part) for part in work.data.parts], dtype=np.float64)
        if self.scenario.training.clip_norm is not None:
            rows = [clip_to_norm(row, self.scenario.training.clip_norm) for row in rows]
        return Senders(torch.stack(rows), examples / examples.sum())

    def pull(self, factor: float, exchanges: int) -> tuple[float, float]:
        """How far the mean moves, relative, and the most that the bound allows (infinite where there is none)."""
        rows = self.honest.rows.clone()
        rows[self.attackers] *= -factor
        attacked = Senders(rows, self.honest.weights)
        moved, before, allowed = 0.0, 0.0, 0.0
        for exchange in range(1, exchanges + 1):
            (clean, least), (spoilt, most) = (self._mean(one, exchange) for one in (self.honest, attacked))
            moved += float((spoilt - clean).square().sum())
            before += float(clean.square().sum())
            allowed += (least + most) ** 2
        return float(np.sqrt(moved / before)), float(np.sqrt(allowed / before))

    def _mean(self, senders: Senders, exchange: int) -> tuple[Tensor, float]:
        """What the server makes of an exchange, and how much of it the attackers' power allows them to be."""
        if not isinstance(self.uplink, AnalogUplink):
            return senders.updates(senders.weights[None])[0], np.inf
        defiant = frozenset[int]() if senders is self.honest else self.uplink.defiant
        reception = replace(self.uplink, defiant=defiant).receive(senders, exchange, seed=0)
        assert reception.update is not None
        bound = self.uplink.norm_bound
        if bound is None or not bound.known:
            return reception.update, np.inf
        sent = np.multiply(reception.record["gains"], reception.record["amplitudes"])[self.attackers]
        received = reception.record["receive_scale"] * sent
        return reception.update, float(largest_pull(self.uplink.code, senders.size, received).sum())


def main() -> None:
    """Measure, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/attackers-pull"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, variant in METHODS.items():
        first = Round(variant)
        for factor in FACTORS:
            pull, allowed = first.pull(float(factor), arguments.exchanges)
            rows.append({"method": name, "factor": factor, "pull": pull, "allowed": allowed})
    points = pd.DataFrame(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    points.to_csv(arguments.out / "pull.csv", index=False)
    draw(points, arguments.out / "pull.svg")
    print(points.pivot(index="factor", columns="method", values="pull").round(3).to_string())


def draw(points: pd.DataFrame, path: Path) -> None:
    """The pull against the factor, both logarithmic, a line for each method; dotted what equation S2 allows."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, own in points.groupby("method", sort=False):
        (line,) = axes.loglog(own["factor"], own["pull"], marker="o", markersize=3, label=str(name))
        if np.isfinite(own["allowed"]).all():
            axes.loglog(own["factor"], own["allowed"], linestyle=":", color=line.get_color())
    axes.set_xlabel("size of what 2 of 10 devices send, over that of an honest update")
    axes.set_ylabel("shift of the mean, relative")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
