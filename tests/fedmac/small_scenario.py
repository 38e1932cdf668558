"""A scenario that runs in a blink: 64-pixel digits, four devices, three rounds over Rayleigh fading."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedmac.scenario_merge import merge, nest

SMALL: dict[str, Any] = {
    "name": "small",
    "rounds": 3,
    "data": {"source": "digits", "devices": 4},
    "training": {"learning_rate": 0.5, "full_batch": True},
    "uplink": {"code": "random-linear", "ratio": 0.25},
    "power_control": {"energy_per_round": 50.0},
    "channel": {"fading": "rayleigh"},
    "engine": {"workers": 1},
}

VARIANTS: list[dict[str, Any]] = [{"name": "rlc"}, {"name": "ideal", "uplink": {"kind": "ideal"}}]


def small(changes: Mapping[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """The scenario with dotted keys and top-level keys changed."""
    return merge(copy.deepcopy(SMALL), nest(dict(changes or {})) | top)


def without(key: str) -> dict[str, Any]:
    """The scenario without a table or a top-level key."""
    return {k: v for k, v in copy.deepcopy(SMALL).items() if k != key}


def write(folder: Path, scenario: Mapping[str, Any]) -> Path:
    """The scenario as a file."""
    path = folder / "small.toml"
    path.write_text(tomli_w.dumps(scenario), encoding="utf-8")
    return path
