"""Messages for bad scenarios: the key's path, the value, and what is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


class ScenarioError(ValueError):
    """A scenario that cannot run; each line of the message names a key, its value and what is accepted."""


def explain(error: ValidationError, model: type[BaseModel], content: Mapping[str, Any], where: str = "") -> str:
    """One line for each thing wrong with `content`."""
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or "scenario"
        lines.append(where + _line(path, item, model))
    return "\n".join(dict.fromkeys(lines))


def _line(path: str, item: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        accepted = _keys(model, item["loc"][:-1])
        close = difflib.get_close_matches(str(item["loc"][-1]), accepted, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{path} = {value!r}: unknown key; {hint}accepted: {', '.join(accepted)}"
    if kind == "missing":
        return f"{path}: missing; accepted: {_description(model, item['loc'])}"
    if kind == "value_error":
        return f"{path}: {context.get('error', item['msg'])}"
    if kind == "literal_error":
        return f"{path} = {value!r}: accepted: {context.get('expected')}"
    message = str(item["msg"])
    accepted_text = message.removeprefix("Input should be ").removeprefix("a valid ")
    return f"{path} = {value!r}: accepted: {accepted_text}"


def _section(model: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel] | None:
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    section = _section(model, loc)
    return [] if section is None else list(section.model_fields)


def _description(model: type[BaseModel], loc: tuple[Any, ...]) -> str:
    section = _section(model, loc[:-1])
    field = None if section is None else section.model_fields.get(str(loc[-1]))
    if field is None:
        return "a value"
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return f"a table [{loc[-1]}] with {', '.join(field.annotation.model_fields)}"
    return field.description or getattr(field.annotation, "__name__", str(field.annotation)).replace("float", "number")
