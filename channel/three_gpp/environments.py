"""What TR 38.901 fixes for each of its environments: heights, distances, and how far a large-scale state reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Environment:
    """One of the deployments of TR 38.901, V19.2.

    Attributes
    ----------
    base_height, device_height : float
        Antenna heights, m (tables 7.2-1 to 7.2-4; a device is at street level, or on the lowest floor).
    cell_radius : float or None
        Default radius, m: to the corner of a hexagon, the standard's distance between sites / sqrt(3). None: a hall.
    hall : tuple of float or None
        Default length, width and height of a hall, m.
    minimum_distance : float
        Default least distance in the plane between base station and device, m.
    shortest, longest : float
        Distances in the plane between which the path loss holds, m (table 7.4.1-1).
    correlation_distance : float
        m that a device moves before it has a large-scale state of its own again: the shorter of the correlation
        distances of shadowing with and without line of sight (table 7.5-6).
    highest_carrier_ghz : float
        Up to which the path loss holds.
    variants : tuple of str
        What the environment comes in, default first; empty if there is one only.
    """

    base_height: float
    device_height: float
    cell_radius: float | None
    hall: tuple[float, float, float] | None
    minimum_distance: float
    shortest: float
    longest: float
    correlation_distance: float
    highest_carrier_ghz: float = 100.0
    variants: tuple[str, ...] = ()


FACTORY_HALLS = {
    "SL": (120.0, 60.0, 10.0),
    "DL": (300.0, 150.0, 10.0),
    "SH": (300.0, 150.0, 10.0),
    "DH": (120.0, 60.0, 10.0),
}
"""Halls of table 7.8-7, m: sparse or dense clutter, low or high base station."""

ENVIRONMENTS: dict[str, Environment] = {
    "umi": Environment(10.0, 1.5, 200.0 / math.sqrt(3.0), None, 10.0, 10.0, 5000.0, 10.0),
    "uma": Environment(25.0, 1.5, 500.0 / math.sqrt(3.0), None, 35.0, 10.0, 5000.0, 37.0),
    "rma": Environment(35.0, 1.5, 1732.0 / math.sqrt(3.0), None, 35.0, 10.0, 5000.0, 37.0, highest_carrier_ghz=30.0),
    "inh": Environment(
        3.0, 1.0, None, (120.0, 50.0, 3.0), 0.0, 0.0, 150.0, correlation_distance=6.0, variants=("open", "mixed")
    ),
    "inf": Environment(
        8.0, 1.5, None, None, 1.0, 1.0, 600.0, correlation_distance=10.0, variants=("SH", "DH", "SL", "DL")
    ),
}
"""Environments by the name that a scenario uses: street canyon, urban and rural macro cell, office, factory."""


def base_height(kind: str, variant: str | None) -> float:
    """Height of the base station's antennas, m; 1.5 in the factories with a low one (table 7.2-4)."""
    return 1.5 if variant in ("SL", "DL") else ENVIRONMENTS[kind].base_height


def default_hall(kind: str, variant: str | None) -> tuple[float, float, float] | None:
    """Length, width and height of the hall if none is given, m; None where there is none."""
    return FACTORY_HALLS[variant] if kind == "inf" and variant is not None else ENVIRONMENTS[kind].hall
