"""`fedmac optimum`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OPTIMUM_HELP = (
    "Find the least value of what a scenario's devices minimise together, for `evaluation.optimum`.\n\n"
    "Their data are pooled; L-BFGS, then Newton-CG, in float64. What is found is the optimum of a convex objective; of "
    "any other, a point where the gradient vanishes."
)


def optimum(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (TOML).")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key, e.g. training.l2=2e-4; repeatable."),
    ] = None,
) -> None:
    from fedmac.optimum import optimum as find_optima
    from fedmac.scenario_text import parse_settings

    for found in find_optima(scenario, parse_settings(settings or [])):
        typer.echo(f"{found.objective:.12g}  gradient norm {found.gradient_norm:.1e}  {', '.join(found.variants)}")
