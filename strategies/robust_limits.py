"""How many devices strategies against attackers need: with fewer they give no protection, and do not say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEEDED = {"krum": (2, 3), "multikrum": (2, 3), "bulyan": (4, 3)}
"""Of f attackers (a, b): at least a f + b devices."""


def check_robust(name: str, parameters: Mapping[str, Any], devices: int) -> None:
    """Refuse a robust strategy with too few devices, or one that would leave nobody out.

    Krum and multi-Krum need n >= 2 f + 3 devices for f attackers (Blanchard et al. 2017), Bulyan n >= 4 f + 3 (El
    Mhamdi et al. 2018). A trimmed mean leaves out the int(beta n) largest and smallest values of each entry.

    Parameters
    ----------
    name : str
        Of the strategy; others than these are let pass.
    parameters : mapping
        As the scenario gives them.
    devices : int
        n that train in a round.

    Raises
    ------
    ValueError
        Naming the parameter, its value and what is accepted.
    """
    if name in NEEDED:
        attackers = _count(parameters, "num_malicious_nodes", 0, 0)
        per_attacker, more = NEEDED[name]
        if devices < per_attacker * attackers + more:
            most = (devices - more) // per_attacker
            can = f"an integer from 0 to {most}" if most >= 0 else f"{name} with at least {more} devices"
            raise ValueError(
                f"num_malicious_nodes = {attackers}: {name} needs at least {per_attacker} f + {more} = "
                f"{per_attacker * attackers + more} devices in a round for f attackers, and {devices} train; accepted: "
                f"{can}, or more devices"
            )
        if name == "multikrum":
            chosen = _count(parameters, "num_nodes_to_select", 1, 1)
            if chosen > devices - attackers:
                raise ValueError(
                    f"num_nodes_to_select = {chosen}: of {devices} devices {attackers} may be attackers; accepted: an "
                    f"integer from 1 to {devices - attackers}"
                )
    if name == "fedtrimmedavg":
        beta = float(parameters.get("beta", 0.2))
        if not 0 <= beta < 0.5:
            raise ValueError(f"beta = {beta}: accepted: a number >= 0 and < 0.5")
        if beta > 0 and int(beta * devices) == 0:
            raise ValueError(
                f"beta = {beta}: int(beta n) = 0 values of the {devices} devices' are trimmed; accepted: 0, or a "
                f"number >= {1 / devices:.3g} and < 0.5"
            )


def _count(parameters: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = parameters.get(key, default)
    if isinstance(value, bool) or value != int(value) or value < least:
        raise ValueError(f"{key} = {value!r}: accepted: an integer >= {least}")
    return int(value)
