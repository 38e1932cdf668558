"""The tuned scenario: the text of the original with other values in it, comments and order kept."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedmac.record import RecordError
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_keys import dotted
from fedmac.scenario_merge import hold_in_variant, merge, nest
from fedmac.studies.tune.search_space import Values
from fedmac.studies.tune.trial import with_values


def scenario_text(source: str | Path | Mapping[str, Any] | Scenario) -> str:
    """A scenario as TOML: the file's own text, or one made of what is in memory."""
    if isinstance(source, Scenario):
        return tomli_w.dumps(source.content())
    if isinstance(source, Mapping):
        return tomli_w.dumps(dict(source))
    return Path(source).read_text(encoding="utf-8")


def tuned_text(text: str, best: Mapping[str, Values], settings: Mapping[str, Any] | None = None) -> str:
    """Put values into a scenario's text.

    Parameters
    ----------
    text : str
        A valid scenario as TOML.
    best : mapping
        Values by variant; of a scenario without variants, by its name. What is not named stays as it is.
    settings : mapping, optional
        Dotted keys to set for all, as ``--set`` does.

    Returns
    -------
    str
        TOML that loads as the scenario with the settings and, in each variant of `best`, its values; comments,
        order and all that does not change stay as they are.

    Raises
    ------
    RecordError
        If there is no way to say it in the text.
    """
    import tomlkit

    overrides = nest(settings or {})
    wanted = merge(tomllib.loads(text), overrides)
    declared = [hold_in_variant(variant, overrides) for variant in wanted.pop("variants", [])]
    if declared:
        variants = [merge(variant, nest(best.get(variant["name"], {}))) for variant in declared]
    else:
        wanted, variants = merge(wanted, nest(best.get(wanted["name"], {}))), []
    document = tomlkit.parse(text)
    _become(document, wanted | ({"variants": variants} if variants else {}))
    written = tomlkit.dumps(document)
    _check(written, text, best, settings or {})
    return written


def _become(table: Any, wanted: Mapping[str, Any]) -> None:
    """Change a table of a document so that it says what is wanted, and nothing else in it."""
    there = table.unwrap()
    for key in there.keys() - wanted.keys():
        del table[key]
    for key, value in wanted.items():
        old = there.get(key)
        if old == value and type(old) is type(value):
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            _become(table[key], value)
        elif key == "variants" and isinstance(old, list) and len(old) == len(value):
            for part, new in zip(table[key], value, strict=True):
                _become(part, new)
        elif isinstance(value, Mapping):
            _add(table, key, value)
        else:
            table[key] = value


def _add(table: Any, key: str, value: Mapping[str, Any]) -> None:
    """A new table in another one: with a header at the top of the document, with dotted keys in a variant."""
    import tomlkit
    from tomlkit.items import InlineTable

    if isinstance(table, tomlkit.TOMLDocument | InlineTable):
        table[key] = dict(value)
        return
    for path, inner in dotted(value, key).items():
        table.append(tomlkit.key(path.split(".")), inner)


def _check(written: str, text: str, best: Mapping[str, Values], settings: Mapping[str, Any]) -> None:
    """Read it as anybody will, and hold it against what was tuned."""
    original = Scenario.load(tomllib.loads(text), settings)
    expected = [with_values(v.scenario, best.get(v.name, {})) for v in original.resolve()]
    try:
        found = [v.scenario for v in Scenario.load(tomllib.loads(written)).resolve()]
    except (ScenarioError, tomllib.TOMLDecodeError) as error:
        raise RecordError(f"the tuned scenario cannot be written into the original's text: {error}") from error
    if found != expected:
        raise RecordError("the tuned scenario cannot be written into the original's text: it would say something else")
