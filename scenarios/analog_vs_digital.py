"""Over the air against orthogonal packets, at equal air time and equal energy; and how much longer packets take.

usage: python scenarios/analog_vs_digital.py [--only TEXT] [--seeds 3] [--jobs N] [--out runs/analog-vs-digital]

Each cell is scenarios/analog_vs_digital.toml with the cell's keys; the last has the setting of Amiri and Gündüz at
their lowest bandwidth and power (25 devices, no fading, a tenth of the model in uses and 50 units of noise energy
a round). Learning rates are chosen for every method in every cell on validation rows (`fedmac tune`), then all run
under the same seeds. Started again it does what is missing. OUT/table.md has the test accuracy in the end (mean, least
to largest), bits an entry of the packets that were sent, and how much of the devices' packets arrived; then the ratio
of the air time of OFDMA to that of a sum over the air, to the same bits. Curves:
`fedmac compare OUT/CELL/run --x channel_uses`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from study import study_arguments, write_table

import fedmac
from channel import OFDMA, Channel, GapLink, LinkBudget

SCENARIO = Path(__file__).with_suffix(".toml")
CELLS: Mapping[str, dict[str, Any]] = {
    "iid, 10 devices, 0 dB": {"channel.snr_db": 0},
    "iid, 10 devices, 10 dB": {},
    "iid, 10 devices, 20 dB": {"channel.snr_db": 20},
    "2 shards, 10 devices, 10 dB": {"data.partition": "shards", "data.shards": 2},
    "iid, 25 devices, no fading, -12 dB": {"data.devices": 25, "channel.fading": "none", "channel.snr_db": -11.959},
}
RATES = [0.1, 0.3, 1.0, 3.0]


def main() -> None:
    """Run the cells that are missing, and write the table of all that are chosen."""
    arguments = study_arguments(__doc__, [*CELLS], seeds=3, out="runs/analog-vs-digital")
    sections = (section(name, run(name, arguments)) for name in arguments.cells)
    write_table(arguments.out, chain(sections, [latency_ratios()]))


def run(name: str, arguments: argparse.Namespace) -> pd.DataFrame:
    """The rounds of all methods in one cell."""
    folder = arguments.out / name.replace(",", "").replace(" ", "-")
    tuned = fedmac.tune(
        SCENARIO, {"training.learning_rate": RATES}, settings=CELLS[name], seeds=1, jobs=arguments.jobs,
        out=folder / "tuning", write=folder / "tuned.toml",
    )  # fmt: skip
    there = (folder / "run").exists()
    settings = {"seeds": arguments.seeds}
    return fedmac.run(tuned.written, out=folder / "run", resume=there, workers=arguments.jobs, settings=settings).rounds


def section(name: str, rounds: pd.DataFrame) -> str:
    """A cell's part of the table."""
    lines = [
        f"### {name}\n",
        "| method | rounds | channel uses | energy a device | bits an entry | packets that arrived | test accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    devices = int(CELLS[name].get("data.devices", 10))
    for method, own in rounds.groupby("variant", sort=False):
        ends = own.groupby("seed").last()
        accuracy, asked = ends["test_accuracy"], devices * int((own["round"] > 0).sum())
        bits, arrived = "", ""
        if own["not_asked"].notna().any():  # what records of packets have
            sent = [packet for packets in own["packet_bits"].dropna() for packet in packets]
            bits = f"{sum(sent) / len(sent) / own['parameters'].max():.3f}" if sent else "-"
            arrived = f"{sum(map(len, own['arrived'].dropna())) / asked:.0%}"
        lines.append(
            f"| {method} | {own['round'].max():.0f} | {ends['channel_uses'].mean():,.0f} "
            f"| {ends['energy_j_per_device_mean'].mean():,.0f} | {bits} | {arrived} "
            f"| {accuracy.mean():.3f} ({accuracy.min():.3f} to {accuracy.max():.3f}) |"
        )
    return "\n".join(lines) + "\n"


def latency_ratios() -> str:
    """Air time of OFDMA in equal shares over that of the sum over the air, at 20 dB and 4 bits an entry."""
    lines = [
        "### OFDMA's air time over that of the air, 20 dB, 4 bits an entry\n",
        "| devices | all power in the own subcarriers | equal power density |",
        "|---|---|---|",
    ]
    for devices in (10, 50, 100, 200):
        lines.append(f"| {devices} | {ratio(devices, 'own-band'):.0f} | {ratio(devices, 'equal-density'):.0f} |")
    return "\n".join(lines) + "\n"


def ratio(devices: int, power: Literal["own-band", "equal-density"], bits: int = 4, entries: int = 10**6) -> float:
    """Mean over Rayleigh fading, channels no weaker than -10 dB; uncoded QAM at a bit error rate of 1e-3.

    The slowest device is what counts: the weakest of K gains has the quantiles -ln(1 - u)/K.
    """
    over_the_air = Channel(bandwidth=1e6).seconds(entries)
    link, nothing = GapLink.from_bit_error_rate(1e-3), [np.random.default_rng(0)] * devices
    times = []
    for u in (np.arange(100) + 0.5) / 100:
        gains = np.full(devices, max(-np.log1p(-u) / devices, 0.1))
        budget = LinkBudget(np.sqrt(gains), 1.0, 0.01, 1e6)
        times.append(OFDMA("equal", power).send(budget, bits * entries, link, nothing).air_time)
    return float(np.mean(times)) / over_the_air


if __name__ == "__main__":
    main()
