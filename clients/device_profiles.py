r"""How fast a class of devices computes, and what it draws: the simulated clock's device profiles.

A message's work of :math:`F` floating-point operations takes :math:`F / v` seconds at the sustained speed :math:`v`.
Its energy is either power times time (a GPU, a laptop, a board at the wall), or, for the processors of phones,

.. math:: E = n\, \kappa f^3\, F / v,

which is :math:`\kappa f^2` a cycle over the cycles of the work on n cores at clock f [1]_: waiting within a slow step
then costs nothing. What limits a real device's process is another thing: :mod:`clients.device_profile`.

References
----------
.. [1] Z. Yang, M. Chen, W. Saad, C. S. Hong, M. Shikh-Bahaei, "Energy efficient federated learning over wireless
   communication networks", IEEE Trans. Wireless Commun. 20(3), 2021.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from clients.device_profile import core_watts

SHIPPED = Path(__file__).parent / "device_profiles.toml"
"""The profiles that come along, each with its source."""


@dataclass(frozen=True)
class ComputeProfile:
    """A class of devices, as the simulated clock sees it.

    Parameters
    ----------
    name : str
        As a scenario names it.
    flops_per_s : float
        Sustained speed v in training, FLOP/s, > 0.
    busy_watts : float, optional
        Drawn while computing (W): energy is power times time. Either this or `clock_hz`.
    clock_hz : float, optional
        f of the model of phones (Hz): energy goes by the work, not by the time that it takes.
    cores : int, default 1
        n, with `clock_hz`.
    idle_watts : float, default 0
        Drawn while waiting (W).
    source : str, default ""
        Where the figures are from.
    checked : bool, default False
        Whether that source was read.

    Raises
    ------
    ValueError
        If a figure is out of range, or neither or both ways of the energy are given.
    """

    name: str
    flops_per_s: float
    busy_watts: float | None = None
    clock_hz: float | None = None
    cores: int = 1
    idle_watts: float = 0.0
    source: str = ""
    checked: bool = False

    def __post_init__(self) -> None:
        where = f"device profile {self.name!r}: "
        _check(where, "flops_per_s", self.flops_per_s, above_zero=True)
        _check(where, "idle_watts", self.idle_watts, above_zero=False)
        if self.busy_watts is not None:
            _check(where, "busy_watts", self.busy_watts, above_zero=False)
        if self.clock_hz is not None:
            _check(where, "clock_hz", self.clock_hz, above_zero=True)
        if (self.busy_watts is None) == (self.clock_hz is None):
            given = "neither" if self.busy_watts is None else "both"
            raise ValueError(f"{where}busy_watts, clock_hz: {given} given; accepted: one of the two")
        if isinstance(self.cores, bool) or not isinstance(self.cores, int) or self.cores < 1:
            raise ValueError(f"{where}cores = {self.cores!r}: accepted: an integer >= 1")

    def seconds(self, flops: float) -> float:
        """How long work of so many FLOPs takes, undisturbed (s)."""
        return flops / self.flops_per_s

    def joules(self, flops: float, seconds: float) -> float:
        """What work of so many FLOPs takes, that went on for so many seconds (J)."""
        if self.clock_hz is not None:
            return self.cores * core_watts(self.clock_hz) * self.seconds(flops)
        return float(self.busy_watts or 0.0) * seconds


def profile_from(name: str, table: Mapping[str, Any]) -> ComputeProfile:
    """A profile from its table in TOML.

    Raises
    ------
    ValueError
        If the table has an unknown key, lacks one, or a value is no number.
    """
    accepted = [field.name for field in fields(ComputeProfile) if field.name != "name"]
    for key, value in table.items():
        if key not in accepted:
            raise ValueError(f"device profile {name!r}: {key} = {value!r}: unknown; accepted: {', '.join(accepted)}")
    if "flops_per_s" not in table:
        raise ValueError(f"device profile {name!r}: flops_per_s: missing; accepted: a number > 0 (FLOP/s)")
    return ComputeProfile(name, **table)


@lru_cache(maxsize=1)
def shipped_profiles() -> Mapping[str, ComputeProfile]:
    """The profiles that come along, by name."""
    return read_profiles(SHIPPED)


def read_profiles(path: Path) -> dict[str, ComputeProfile]:
    """The profiles of a TOML file, a table for each.

    Raises
    ------
    ValueError
        If the file is not of that form; the message names it.
    OSError
        If it cannot be read.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{path}: {name} = {table!r}: accepted: a table for each profile, [name]")
    try:
        return {name: profile_from(name, table) for name, table in tables.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check(where: str, key: str, value: object, *, above_zero: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (value > 0 if above_zero else value >= 0):  # type: ignore[operator]
        raise ValueError(f"{where}{key} = {value!r}: accepted: a finite number {'> 0' if above_zero else '>= 0'}")
