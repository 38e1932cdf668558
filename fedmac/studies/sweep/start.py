"""How a sweep begins: its cells checked, its folder made, or gone on with if it is this sweep's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from fedmac.build import rehearse
from fedmac.lock import held
from fedmac.logs import quiet_flower
from fedmac.record import SCENARIO, FolderInTheWay, write_atomically, writing
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_keys import common, differences
from fedmac.studies.sweep.folder import PLAN, Cell, Sweep, cell_folder, is_sweep, read_sweep
from fedmac.studies.sweep.grid import Grid, cell_name, cells_of, value_text

LOCK = ".lock"
_SHOWN_LINES = 8


def plan_sweep(
    source: str | Path | Mapping[str, Any] | Scenario,
    grid: Grid,
    *,
    settings: Mapping[str, Any],
    only: Sequence[str] = (),
    out: str | Path | None = None,
) -> Sweep:
    """Check all that a sweep would run, and touch nothing.

    Parameters
    ----------
    source : path, mapping or Scenario
        What all cells begin from.
    grid : dict
        Values by dotted key, as :func:`fedmac.studies.sweep.grid.check_grid` returns it.
    settings : mapping
        Dotted keys to set in all cells; ``seed`` and ``seeds`` among them.
    only : sequence of str
        Variants to run; all if empty.
    out : path, optional
        The sweep's folder; ``runs/NAME-sweep`` if not given.

    Raises
    ------
    ScenarioError
        If a cell cannot run; a line for each thing wrong, with the cells it is wrong in.
    DataUnavailable
        If a data set is not on this machine and cannot be fetched.
    """
    for key in grid:
        if key in settings:
            raise ScenarioError(f"grid: {key} is set to one value as well; accepted: one of the two")
    cells = cells_of(grid)
    scenarios = _load_all(source, settings, cells)
    first = scenarios[0]
    first.resolve(only)  # refuses a name that is not there
    with quiet_flower():
        _collect([cell_name(cell) for cell in cells], lambda number: rehearse(scenarios[number]))
    folder = Path(out) if out is not None else Path("runs") / f"{first.name}-sweep"
    return Sweep(
        folder,
        first.name,
        grid,
        list(first.run_seeds),
        list(only),
        [Cell(cell_name(s), s, cell_folder(folder, s), planned) for s, planned in zip(cells, scenarios, strict=True)],
    )


def _load_all(
    source: str | Path | Mapping[str, Any] | Scenario, settings: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]
) -> list[Scenario]:
    loaded: list[Scenario] = []
    names = [cell_name(cell) for cell in cells]
    _collect(names, lambda number: loaded.append(Scenario.load(source, {**settings, **cells[number]})))
    return loaded


def _collect(names: Sequence[str], check: Any) -> None:
    """Check each cell; what several cells say alike is said once."""
    wrong: dict[str, list[str]] = {}
    for number, name in enumerate(names):
        try:
            check(number)
        except ScenarioError as error:
            for line in str(error).splitlines():
                wrong.setdefault(line, []).append(name)
    if not wrong:
        return
    lines = [line if len(cells) == len(names) else f"{line} ({_where(cells)})" for line, cells in wrong.items()]
    if len(lines) > _SHOWN_LINES:
        lines = [*lines[:_SHOWN_LINES], f"and {len(lines) - _SHOWN_LINES} more"]
    raise ScenarioError("\n".join(lines))


def _where(cells: Sequence[str]) -> str:
    more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
    return f"cell {cells[0]}{more}"


def check_sweep_folder(sweep: Sweep) -> None:
    """Refuse a folder that holds something else than this sweep or a smaller one of it; nothing is touched.

    Raises
    ------
    FolderInTheWay
        With what differs.
    """
    folder = sweep.folder
    if not folder.exists():
        return
    if not folder.is_dir() or (not is_sweep(folder) and {path.name for path in folder.iterdir()} - {LOCK}):
        raise FolderInTheWay(f"{folder}: exists and is not a sweep's folder; accepted: another folder")
    if not is_sweep(folder):
        return
    there = read_sweep(folder)
    differing = [*_plan_differences(there, sweep), *_cell_differences(there, sweep)]
    if differing:
        raise FolderInTheWay(
            f"{folder}: holds another sweep ({'; '.join(differing)}); accepted: the same sweep, more values, seeds or "
            "variants, or another folder"
        )


def _plan_differences(there: Sweep, here: Sweep) -> list[str]:
    """What the sweep here lacks of the one there; it may have more."""
    found = []
    if list(there.grid) != list(here.grid):
        found.append(f"grid: {', '.join(there.grid) or 'no keys'} there, {', '.join(here.grid) or 'no keys'} here")
    for key in there.grid.keys() & here.grid.keys():
        if any(value not in here.grid[key] for value in there.grid[key]):
            old, new = (", ".join(map(value_text, s.grid[key])) for s in (there, here))
            found.append(f"grid {key}: {old} there, {new} here")
    if not set(there.seeds) <= set(here.seeds):
        found.append(f"seeds: {_seeds(there)} there, {_seeds(here)} here")
    names = [variant.name for variant in here.cells[0].scenario.resolve()]
    if not set(there.only or names) <= set(here.only or names):
        old = ", ".join(there.only) or "all variants"
        found.append(f"only: {old} there, {', '.join(here.only)} here")
    return found


def _seeds(sweep: Sweep) -> str:
    return str(sweep.seeds[0]) if len(sweep.seeds) == 1 else f"{sweep.seeds[0]} to {sweep.seeds[-1]}"


def _cell_differences(there: Sweep, here: Sweep) -> list[str]:
    """What differs in the scenarios of the cells that both have, each key once."""
    planned = {cell.name: cell.scenario for cell in here.cells}
    found: dict[str, str] = {}
    for cell in there.cells:
        if cell.name in planned and (cell.folder / SCENARIO).is_file():
            for line in differences(cell.scenario, planned[cell.name], ignoring=("seed", "seeds")):
                found.setdefault(line.split(":")[0], line)
    return list(found.values())


def write_sweep_folder(sweep: Sweep) -> None:
    """Write what is planned: ``sweep.toml``, and the scenario of each cell.

    Raises
    ------
    RecordError
        If it cannot be written.
    """
    contents = [cell.scenario.content() for cell in sweep.cells]
    plan = {
        "name": sweep.name,
        "seed": sweep.seeds[0],
        "seeds": len(sweep.seeds),
        "only": sweep.only,
        "grid": [{"key": key, "values": values} for key, values in sweep.grid.items()],
        "scenario": common(contents),
    }
    write_atomically(sweep.folder / PLAN, tomli_w.dumps(plan))
    for cell, content in zip(sweep.cells, contents, strict=True):
        with writing(cell.folder):
            cell.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(cell.folder / SCENARIO, tomli_w.dumps(content))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a sweep's folder for this process; however the process ends, it lets go.

    Raises
    ------
    FolderInTheWay
        If another process holds it.
    RecordError
        If the folder cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder / LOCK, f"{folder}: a sweep is running in it; accepted: another folder, or wait"):
        yield
