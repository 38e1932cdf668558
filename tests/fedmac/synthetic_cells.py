"""Made-up runs in a cell, as a run writes them, for the tests of the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fedmac.synthetic_runs import run_rows


def placed_rows(devices: int, sees: list[bool] | None, variant: str = "rlc") -> list[dict[str, Any]]:
    """A made-up run in which device k is k + 1 metres away, to the east and to the north by turns."""
    rows = run_rows(variant, seeds=[0, 1], rounds=4, devices=devices, silent=True)
    away = np.arange(1.0, devices + 1)
    for row in rows:
        if row["round"] == 0:
            north = np.arange(devices) % 2
            row["placement"] = {
                "x_m": (away * (1 - north)).tolist(),
                "y_m": (away * north).tolist(),
                "line_of_sight": sees,
                "mean_gain_db": (-20 * np.log10(away)).tolist(),
            }
        else:
            row["noise_power"] = 1e-3
    return rows
