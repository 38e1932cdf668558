"""Codecs and links that a scenario names, checked by making them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from fedmac.scenario_errors import meant, missing, refusal, shown

TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "float": ((int, float), "a number"),
    "int": ((int,), "an integer"),
    "bool": ((bool,), "true or false"),
    "Bucket": ((int, str), 'an integer, or "whole"'),
}
"""What a parameter annotated so accepts, and in words."""


def check_codec(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse an unknown codec, or a parameter that it does not have or accept.

    Raises
    ------
    ValueError
        Naming the value and what is accepted.
    """
    from channel.codecs import CODECS, FACTOR_CODECS
    from channel.order import PacketOrder

    _check("codec", {**CODECS, **FACTOR_CODECS}, name, parameters)
    if name in CODECS:
        PacketOrder(name, parameters, first_group=0).codec_of(0)  # what the nested quantiser's first group sends with


def check_link(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse an unknown link, or a parameter that it does not have or accept; as :func:`check_codec`."""
    if name == "shannon" and not parameters:
        return  # what every scenario has by default: a device's process is spared the import of links
    from channel.links import LINKS

    _check("link", LINKS, name, parameters)


def _check(what: str, known: Mapping[str, Callable[..., Any]], name: str, parameters: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(
            f"name = {shown(name)}: unknown {what}; {meant(name, list(known))}accepted: {', '.join(known)}"
        )
    signature = inspect.signature(known[name]).parameters
    for key, value in parameters.items():
        if key not in signature:
            accepted = ", ".join(signature) or "no parameters"
            hint = meant(key, list(signature))
            raise ValueError(f"{key} = {shown(value)}: {name} has no such parameter; {hint}accepted: {accepted}")
        _check_type(name, key, value, str(signature[key].annotation))
    for key, parameter in signature.items():
        if parameter.default is inspect.Parameter.empty and key not in parameters:
            words = TYPES.get(str(parameter.annotation), ((), "a value"))[1]
            raise missing(key, f'but name = "{name}" needs it', words)
    try:
        known[name](**parameters)
    except ImportError as error:
        raise ValueError(f'name = "{name}": {error}') from error
    except ValueError as error:
        # Links say "gap_db is -1", as objects do; a scenario's keys are told as they are written.
        raise ValueError(re.sub(r"^([a-z_]+) is (.*?); accepted", r"\1 = \2: accepted", str(error))) from error


def _check_type(name: str, key: str, value: Any, annotation: str) -> None:
    kinds, words = TYPES.get(annotation.removesuffix(" | None"), ((), ""))
    if kinds and type(value) not in kinds:
        raise refusal(key, value, f"a parameter of {name}", words)
