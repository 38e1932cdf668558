"""TOML text as plain data, whatever it holds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from fedmac.scenario_errors import ScenarioError

DEEPEST = 32
"""Tables and lists within one another; a scenario has five."""


def parsed(text: str, where: str) -> dict[str, Any]:
    """The content of a TOML text.

    Parameters
    ----------
    text : str
        TOML.
    where : str
        Where it is from, for messages.

    Raises
    ------
    ScenarioError
        If it is not valid TOML, or nested without end.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{where}: not valid TOML: {error}") from None
    except RecursionError:
        raise ScenarioError(f"{where}: not valid TOML: nested more than {DEEPEST} deep") from None
    check_depth(content, f"{where}: not valid TOML")
    return content


def check_depth(content: Mapping[str, Any], where: str) -> None:
    """Refuse what no walk through it would come to the end of.

    Raises
    ------
    ScenarioError
        If tables and lists are more than :data:`DEEPEST` deep.
    """
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        inner = [list(one.values()) if isinstance(one, Mapping) else one for one in level]
        level = [value for values in inner for value in values if isinstance(value, Mapping | list | tuple)]
        if not level:
            return
    raise ScenarioError(f"{where}: nested more than {DEEPEST} deep; accepted: tables in tables, and lists of them")
