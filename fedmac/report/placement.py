"""Where the devices of a run are, and what became of each there: the table behind the figures of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmac.report.device_figures import device_tables
from fedmac.report.over_seeds import finite

PLACED = ("x_m", "y_m", "mean_gain_db")


def placement_tables(rounds: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Join where each device is with what it got out of the air, for the variants whose record says where.

    Parameters
    ----------
    rounds
        As :class:`fedmac.report.folder.Record` has them; ``placement`` stands in round 0.

    Returns
    -------
    dict
        Variant name to a table with a row per device (index: its number) and the columns ``x_m``, ``y_m``,
        ``distance_m`` (from the base station, in the plane), ``mean_gain_db``, ``line_of_sight`` (1, 0, or NaN where
        the record does not say), ``heard`` (share of the rounds of the first seed) and ``energy`` (their sum).

    Raises
    ------
    ValueError
        A placement whose lists are not as long as each other.
    """
    tables = {str(name): _table(placement) for name, placement in _placements(rounds).items()}
    outcomes = device_tables(rounds, {name: len(table) for name, table in tables.items()}) if tables else {}
    for name, table in tables.items():
        outcome = outcomes.get(name, pd.DataFrame(columns=["heard", "energy"], dtype=float)).reindex(table.index)
        table["heard"], table["energy"] = outcome["heard"], outcome["energy"]
    return tables


def gains_db(rounds: pd.DataFrame, variant: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the devices that took part and their gains, 20 log10 |h_k| in dB, over all rounds of the first seed."""
    rows = rounds[rounds["variant"] == variant]
    devices, gains = [np.empty(0)], [np.empty(0)]
    for ids, values in zip(rows["devices"], rows["gains"], strict=True):
        if isinstance(values, np.ndarray) and isinstance(ids, np.ndarray) and values.shape == ids.shape:
            devices.append(ids)
            gains.append(values)
    magnitudes = np.abs(np.concatenate(gains))
    known = np.isfinite(magnitudes) & (magnitudes > 0)
    return np.concatenate(devices)[known].astype(np.intp), 20.0 * np.log10(magnitudes[known])


def noise_level_db(rounds: pd.DataFrame, variant: str) -> float | None:
    """Return the gain in dB at which a device at its power limit arrives as strong as the noise.

    None where limits differ between devices or rounds, there is no noise, or the record says neither.
    """
    rows = rounds[(rounds["variant"] == variant) & rounds["noise_power"].gt(0)]
    # Of the first seed only: of others the report keeps nothing by device.
    known = [np.ravel(np.asarray(value, dtype=np.float64)) for value in rows["power_limit"] if value is not None]
    limits = np.unique(finite(np.concatenate([np.empty(0), *known])))
    if len(limits) != 1 or limits[0] <= 0:
        return None
    return float(10.0 * np.log10(rows["noise_power"].median() / limits[0]))


def _placements(rounds: pd.DataFrame) -> dict[Any, Mapping[str, Any]]:
    placed = rounds[[isinstance(value, Mapping) for value in rounds["placement"]]] if len(rounds) else rounds
    return {name: rows["placement"].iloc[0] for name, rows in placed.groupby("variant", sort=False)}


def _table(placement: Mapping[str, Any]) -> pd.DataFrame:
    columns = {key: _numbers(placement.get(key)) for key in PLACED}
    sees = placement.get("line_of_sight")
    columns["line_of_sight"] = np.full(len(columns["x_m"]), np.nan) if sees is None else _numbers(sees)
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"placement: got lists of {lengths} entries, expected one entry a device in each")
    columns["distance_m"] = np.hypot(columns["x_m"], columns["y_m"])
    return pd.DataFrame(columns)


def _numbers(values: object) -> NDArray[np.float64]:
    """A list of the record as floats, null as NaN; nothing at all is an empty list."""
    return np.asarray([] if values is None else values, dtype=object).astype(np.float64)
