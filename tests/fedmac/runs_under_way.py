"""Run and sweep folders as they are while work goes on, made from a finished run of `rlc` and `ideal`."""

from __future__ import annotations

import shutil
from pathlib import Path

import tomli_w


def begun(finished: Path, folder: Path, lines: int) -> Path:
    """The run as it was after so many lines of the first variant: not summed up, no model, the second not begun."""
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    for home in ("rlc", "ideal"):
        for file in ((folder / home / "summary.json"), *(folder / home).glob("model*")):
            file.unlink()
    (folder / "ideal" / "rounds.jsonl").unlink()
    record = folder / "rlc" / "rounds.jsonl"
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:lines]))
    return folder


def make_sweep(finished: Path, folder: Path) -> Path:
    """A sweep of two cells and two seeds: one run finished, one failed, two not begun."""
    plan = {"name": "snr", "seed": 0, "seeds": 2, "only": [], "grid": [{"key": "channel.snr_db", "values": [0, 10]}]}
    cell = folder / "cells" / "channel.snr_db=0"
    shutil.copytree(finished, cell / "seed-0")
    (cell / "seed-1.failed").write_text("killed by signal 9; often out of memory\n")
    (folder / "sweep.toml").write_text(tomli_w.dumps(plan))
    return folder
