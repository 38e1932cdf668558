"""`fedmac list`, `schema` and `new`: what a scenario can say, and one to begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def list_names(
    kind: Annotated[str | None, typer.Argument(help="One kind only, e.g. strategies.")] = None,
) -> None:
    """List what a scenario can name, with a line for each."""
    from fedmac.catalogue import catalogue
    from fedmac.scenario_errors import ScenarioError

    kinds = catalogue(kind)
    if kind is not None and kind not in kinds:
        raise ScenarioError(f"kind = {kind!r}: unknown; accepted: {', '.join(kinds)}")
    for heading, (key, names) in kinds.items():
        if kind in (None, heading):
            typer.echo(f"{heading} ({key})")
            width = max(map(len, names))
            for name, line in names.items():
                typer.echo(f"  {name:{width}}  {line}")


def schema() -> None:
    """Print the JSON schema of scenarios, for editors that complete and check TOML."""
    from fedmac.scenario import Scenario

    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    typer.echo(json.dumps(dialect | Scenario.model_json_schema(), indent=2))


def new(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("scenario.toml"),
) -> None:
    """Write a commented scenario to start from."""
    from fedmac.record import writing
    from fedmac.scenario_errors import ScenarioError

    if path.exists():
        raise ScenarioError(f"{path}: exists already; accepted: a new file")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((Path(__file__).parent.parent / "starter.toml").read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"{path}: written; run it with `fedmac run {path}`")
