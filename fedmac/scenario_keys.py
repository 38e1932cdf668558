"""Scenarios as flat tables of dotted keys, to compare them and to put them side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedmac.scenario import Scenario
from fedmac.scenario_errors import shown

CHANGE_NO_RESULT = ("engine", "description")
"""Tables and keys that say nothing about what comes out of a run."""


def dotted(content: Any, path: str = "") -> dict[str, Any]:
    """``{"uplink": {"ratio": 0.1}}`` as ``{"uplink.ratio": 0.1}``; tables in lists numbered, ``variants[0].name``."""
    if isinstance(content, Mapping):
        parts = {f"{path}.{key}" if path else str(key): value for key, value in content.items()}
    elif isinstance(content, list) and content and all(isinstance(item, Mapping) for item in content):
        parts = {f"{path}[{number}]": value for number, value in enumerate(content)}
    else:
        return {path: content}
    return {key: value for part, inner in parts.items() for key, value in dotted(inner, part).items()}


def what_counts(scenario: Scenario) -> dict[str, Any]:
    """Dotted keys of what a run depends on: all but the engine and the descriptions."""
    keys = dotted(scenario.content())
    return {key: value for key, value in keys.items() if not set(key.split(".")) & set(CHANGE_NO_RESULT)}


def differences(there: Scenario, here: Scenario, ignoring: Iterable[str] = ()) -> list[str]:
    """What differs between two scenarios, ``data.devices: 4 there, 5 here`` for each key.

    Parameters
    ----------
    there, here : Scenario
        The two.
    ignoring : iterable of str
        Top-level keys and tables that may differ, beside those that change no result.
    """
    left_out = {*CHANGE_NO_RESULT, *ignoring}
    old, new = (
        {key: value for key, value in dotted(s.content()).items() if key.split(".")[0] not in left_out}
        for s in (there, here)
    )
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return [f"{key}: {_said(old, key)} there, {_said(new, key)} here" for key in keys]


def _said(content: Mapping[str, Any], key: str) -> str:
    return shown(content[key]) if key in content else "not set"


def common(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several scenarios have in common, as nested as they are."""
    shared: dict[str, Any] = {}
    for key, value in contents[0].items():
        values = [content.get(key) for content in contents]
        if all(isinstance(v, Mapping) for v in values):
            shared[key] = common([v for v in values if isinstance(v, Mapping)])
        elif all(v == value for v in values):
            shared[key] = value
    return {key: value for key, value in shared.items() if value != {}}
