"""Shifts of the devices' own, as DIANA has them, over the air: do they help non-iid data at a tight budget?

usage: python scenarios/device_shifts.py [--seeds 5] [--out runs/device-shifts]

Device k keeps h_k and sends x_k - h_k, in place of its gradient x_k; both move on by what the code keeps of it,
h_k += a A^T A (x_k - h_k). The server moves its own estimate of mean h by what it decoded, noise included, and adds it
to that. The energy of a round bounds max_k ||x_k - h_k||, so that smaller differences arrive with less noise, where a
shift shared by all would not make them smaller. Task, budget and code are those of scenarios/planning.toml; the
learning rate of each scheme is chosen on validation rows by two seeds. OUT/table.md has, against no shifts: accuracy
and objective in the end, means of differences seed by seed with 95 % intervals; then the largest energy of what is
sent over that of the gradients, and the squared error of the server's mean h over ||mean x||^2, at rounds 50, 100, 200.

Source: K. Mishchenko, E. Gorbunov, M. Takáč, P. Richtárik, "Distributed learning with compressed gradient
differences", arXiv:1901.09269, 2019.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

import fedmac
from channel.codes import RandomLinearCode
from channel.randomness import key, torch_generator
from clients.data import FederatedData
from fedmac.build_devices import build_data
from fedmac.studies.compare.statistics import Contrast, Estimate, estimate, paired

TASK = Path(__file__).with_name("planning.toml")
RATES = [0.025, 0.05, 0.1]
ROUNDS_TOLD = (50, 100, 200)


@dataclass(frozen=True)
class Scheme:
    """How shifts move.

    Attributes
    ----------
    name : str
        In the table.
    step : float
        a; 0 is no shifts, 1 takes over all that the code keeps.
    kept : float
        What both sides keep of their shifts from round to round.
    whole : bool
        Decode the mean gradient, mean h coded and added before, in place of the mean difference.
    known : bool
        The server knows mean h exactly, which it cannot.
    """

    name: str
    step: float = 1.0
    kept: float = 1.0
    whole: bool = False
    known: bool = False


SCHEMES = (
    Scheme("no shifts", step=0.0),
    Scheme("shifts"),
    Scheme("shifts, a = 1/4", step=0.25),
    Scheme("shifts that fade, 2 % a round", kept=0.98),
    Scheme("shifts, decoded whole", whole=True),
    Scheme("shifts, mean h known", known=True),
    Scheme("shifts, mean h known, decoded whole", whole=True, known=True),
)


class Task:
    """Softmax regression of all devices at once, and the budget of a round.

    Parameters
    ----------
    seed : int
        Hands out the rows, draws codes and noise.
    """

    def __init__(self, seed: int) -> None:
        scenario = fedmac.Scenario.load(TASK)
        assert scenario.uplink.uses is not None
        assert scenario.power_control.energy_per_round is not None
        data = build_data(scenario, seed)
        self.seed, self.rounds, self.energy = seed, scenario.rounds, scenario.power_control.energy_per_round
        self.momentum = float(scenario.strategy.parameters["server_momentum"])
        self.inputs, self.targets = stacked(data)
        self.classes = data.num_classes
        self.held_out = {"validation": data.validation, "test": data.test}
        self.size = self.inputs.shape[2] * self.classes
        self.code = RandomLinearCode(uses=scenario.uplink.uses)
        self.ratio = self.code.expected_energy_ratio(self.size)

    def gradients(self, model: Tensor) -> Tensor:
        """Of each device's mean loss, (K, d)."""
        excess = torch.softmax(self.inputs @ model, dim=2) - one_hot(self.targets, self.classes)
        return (self.inputs.mT @ excess / self.inputs.shape[1]).flatten(1)

    def objective(self, model: Tensor) -> float:
        """Mean loss of all training rows."""
        return float(cross_entropy((self.inputs @ model).flatten(0, 1), self.targets.flatten()))

    def accuracy(self, model: Tensor, rows: str) -> float:
        """Share of right answers."""
        split = self.held_out[rows]
        return float(((with_ones(split.inputs) @ model).argmax(dim=1) == split.targets).double().mean())

    def train(self, scheme: Scheme, rate: float) -> dict[str, float]:
        """All rounds; the figures of the table by name."""
        model, velocity = torch.zeros(self.inputs.shape[2], self.classes), torch.zeros(self.size)
        shifts, estimated = torch.zeros(len(self.inputs), self.size), torch.zeros(self.size)
        noise, figures = torch_generator(self.seed, "noise"), dict[str, float]()
        for round in range(1, self.rounds + 1):
            seed, wanted = key(self.seed, "code", round), self.gradients(model)
            sent = wanted - shifts
            if round in ROUNDS_TOLD:
                figures |= told_of(round, wanted, sent, estimated - shifts.mean(dim=0))
            coded = self.code.encode(sent, seed)
            received = coded.mean(dim=0) + self.noise_level(sent) * torch.randn(coded.shape[1], generator=noise)
            heard = self.code.decode(received, self.size, seed)
            if scheme.whole:
                step = self.code.decode(received + self.code.encode(estimated, seed), self.size, seed)
            else:
                step = estimated + heard
            if scheme.step:
                moved = scheme.step * self.ratio
                shifts = scheme.kept * (shifts + moved * self.code.decode(coded, self.size, seed))
                estimated = scheme.kept * (estimated + moved * heard)
                estimated = shifts.mean(dim=0) if scheme.known else estimated
            velocity = self.momentum * velocity + step
            model = model - rate * velocity.view_as(model)
        accuracies = {rows: 100 * self.accuracy(model, rows) for rows in self.held_out}
        return figures | accuracies | {"objective": self.objective(model)}

    def noise_level(self, sent: Tensor) -> float:
        """Standard deviation of a coded entry of the mean: channel inversion, the strongest device at its limit."""
        strongest = float(sent.norm(dim=1).max()) / len(sent)
        return strongest * (self.ratio / self.energy) ** 0.5


def stacked(data: FederatedData) -> tuple[Tensor, Tensor]:
    """Inputs (K, n, features + 1) and targets (K, n) of devices that hold n rows each."""
    splits = [data.device(device) for device in range(len(data.parts))]
    return torch.stack([with_ones(one.inputs) for one in splits]), torch.stack([one.targets for one in splits])


def with_ones(inputs: Tensor) -> Tensor:
    """Flattened, and a one for the bias."""
    flat = inputs.flatten(1)
    return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)


def told_of(round: int, wanted: Tensor, sent: Tensor, error: Tensor) -> dict[str, float]:
    """Largest energy of what is sent over that of the gradients; error of mean h over the mean gradient's energy."""
    energy = (sent.norm(dim=1).max() / wanted.norm(dim=1).max()) ** 2
    return {f"energy {round}": float(energy), f"error {round}": float((error.norm() / wanted.mean(dim=0).norm()) ** 2)}


def main() -> None:
    """Choose rates, run all schemes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/device-shifts"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [Task(seed) for seed in range(arguments.seeds)]
    rows = []
    for scheme in SCHEMES:
        tried = {rate: [task.train(scheme, rate) for task in tasks[:2]] for rate in RATES}
        rate = max(RATES, key=lambda rate: sum(one["validation"] for one in tried[rate]))
        ends = pd.DataFrame(tried[rate] + [task.train(scheme, rate) for task in tasks[2:]])
        rows.append((scheme.name, rate, ends))
        print(scheme.name, rate, ends.mean().round(4).to_dict(), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "table.md").write_text(table(rows), encoding="utf-8")


def table(rows: Sequence[tuple[str, float, pd.DataFrame]]) -> str:
    """A row for each scheme; differences are to the first."""
    lines = [
        "| scheme | rate | accuracy, % | to none | objective | to none | largest energy | error of mean h |",
        "|---" * 8 + "|",
    ]
    name, _, first = rows[0]
    pairs: dict[str, Any] = {}
    for figure in ("test", "objective"):
        contrasts = [Contrast(n, name, own[figure].to_dict(), first[figure].to_dict()) for n, _, own in rows[1:]]
        pairs[figure] = {pair.name: pair.difference for pair in paired(contrasts, figure)}
    for name, rate, ends in rows:
        cells = [name, f"{rate:g}"]
        for figure, digits in (("test", 2), ("objective", 3)):
            cells.append(told(estimate(ends[figure]), digits))
            cells.append(told(pairs[figure][name], digits, "+") if name in pairs[figure] else "")
        for figure in ("energy", "error"):
            cells.append(", ".join(f"{ends[one].mean():.2g}" for one in ends if one.startswith(f"{figure} ")))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def told(value: Estimate, digits: int, sign: str = "") -> str:
    """Mean and half width."""
    half_width = "" if value.half_width is None else f" ± {value.half_width:.{digits}f}"
    return f"{value.mean:{sign}.{digits}f}{half_width}"


if __name__ == "__main__":
    main()
