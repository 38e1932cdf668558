"""Messages for bad scenarios: the key's path, the value, and what is accepted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

_NAMES_ITS_KEY = re.compile(r"[a-z_]+(\.[a-z_]+)*( ?= ?|: missing)")
_LONGEST_VALUE = 60


class ScenarioError(ValueError):
    """A scenario that cannot run; each line of the message names a key, its value and what is accepted."""


def refusal(key: str, value: Any, reason: str, accepted: str) -> ValueError:
    """What a table says of a key that does not fit the others; `key` is relative to the table."""
    return ValueError(f"{key} = {shown(value)}: {reason}; accepted: {accepted}")


def missing(key: str, reason: str, accepted: str) -> ValueError:
    """What a table says of a key that the others need."""
    return ValueError(f"{key}: missing, {reason}; accepted: {accepted}")


def below(table: str, message: str) -> str:
    """A message about a table's key with the table put before it: ``ratio = 2: …`` as ``uplink.ratio = 2: …``."""
    if not table or message.startswith((f"{table}.", f"{table} '")):
        return message
    if message.startswith("="):
        return f"{table} {message}"
    return f"{table}{'.' if _NAMES_ITS_KEY.match(message) else ': '}{message}"


def shown(value: Any) -> str:
    """A value as TOML writes it, cut to a readable length."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def meant(word: object, accepted: Sequence[object]) -> str:
    """``did you mean …? `` where an accepted word is close, else nothing; numbers are not misspelt."""
    close = difflib.get_close_matches(str(word), [word for word in accepted if isinstance(word, str)], n=1)
    return f"did you mean {close[0]}? " if close else ""


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """One line for each thing that a validation found wrong, each beginning with `where`."""
    schema = model.model_json_schema()
    return "\n".join(dict.fromkeys(where + _line(item, schema) for item in error.errors()))


def accepted_by(table: type[BaseModel], key: str) -> str:
    """What a table's key accepts, in words."""
    schema = table.model_json_schema()
    return _accepted(_find(schema, [key]), schema)


def _line(item: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    kind, loc, value = item["type"], item["loc"], item.get("input")
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
    if kind == "value_error":
        return below(path, str(item["ctx"]["error"]))
    if kind == "extra_forbidden":
        return f"{path} = {shown(value)}: unknown key; {_unknown(loc, schema)}"
    node = _find(schema, loc)
    accepted = _accepted(node, schema)
    if kind == "missing":
        return f"{path}: missing; accepted: {accepted}"
    if kind == "finite_number":
        accepted = accepted.replace("a number", "a finite number")
    hint = meant(value, _choices(node))
    return f"{path} = {shown(value)}: {hint}accepted: {accepted}"


def _unknown(loc: Sequence[Any], schema: Mapping[str, Any]) -> str:
    """Which keys there are, and which may have been meant: one like it, or one of this name elsewhere."""
    keys = list(_find(schema, loc[:-1]).get("properties", {}))
    name = str(loc[-1])
    tables = [t for t in schema["properties"] if name in _find(schema, [t]).get("properties", {})]
    elsewhere = f"did you mean {tables[0]}.{name}? " if tables else ""
    return f"{elsewhere or meant(name, keys)}accepted: {', '.join(keys)}"


def _find(schema: Mapping[str, Any], loc: Sequence[Any]) -> Mapping[str, Any]:
    """The part of a JSON schema about the value at `loc`; empty if it says nothing about it."""
    node: Mapping[str, Any] = schema
    for part in loc:
        node = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
        node = _plain(node, schema)
    return node


def _plain(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node with references followed, and null (which TOML cannot write) left out."""
    for choice in node.get("anyOf", ()):
        if choice.get("type") != "null":
            node = {k: v for k, v in node.items() if k != "anyOf"} | choice
    if "$ref" in node:
        return dict(schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
    return node


def _choices(node: Mapping[str, Any]) -> list[Any]:
    """The values that a node of a JSON schema names, if it names them."""
    return [node["const"]] if "const" in node else list(node.get("enum", ()))


def _accepted(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a node of a JSON schema accepts, in words."""
    if choices := _choices(node):
        return ", ".join(f'"{choice}"' for choice in choices)
    kind = node.get("type")
    if kind == "object":
        keys = node.get("properties")
        return f"a table with {', '.join(keys)}" if keys else "a table"
    if kind == "array":
        return f"an array, of which each is {_accepted(_plain(node['items'], schema), schema)}"
    words = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "a text"}
    text = words.get(str(kind), "another value")
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[limit]:g}" for limit, sign in limits.items() if limit in node]
    if bounds:
        text += " " + " and ".join(bounds)
    if node.get("minLength"):
        text += " that is not empty"
    description = node.get("description")
    return f"{text} ({description})" if description else text
