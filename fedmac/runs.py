"""Run a scenario, and read what a run has left."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmac.lock import held
from fedmac.record import (
    ROUNDS,
    SCENARIO,
    SUMMARY,
    NoRunHere,
    RecordError,
    check_folder,
    folder_of,
    kept_only,
    model_path,
    prepare,
    read_rounds,
    writing,
)
from fedmac.run_begin import log_begin
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError, shown
from fedmac.scenario_merge import merge, nest
from fedmac.session import plan, summarise, summary_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import nn

    from fedmac.progress import Progress
    from fedmac.sinks import Sink


class Run:
    """A run folder, read lazily.

    Parameters
    ----------
    folder : path
        A folder that :func:`run` or the command line has written.

    Raises
    ------
    RecordError
        If there is no run in the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / SCENARIO).is_file():
            raise NoRunHere(f"{self.folder}: no run here (no {SCENARIO}); accepted: a folder that a run has written")
        self.scenario = Scenario.load(self.folder / SCENARIO)
        self.summary: dict[str, Any] = self._read_summary()

    def _read_summary(self) -> dict[str, Any]:
        """What the run has summed up; if it was killed before it could, from the rounds that are there."""
        path = self.folder / SUMMARY
        if not path.is_file():
            return summary_of(self.scenario, self.folder, interrupted=True)
        try:
            summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecordError(f"{path}: not valid JSON: {error}") from None
        _check_rows(path, summary, [variant.name for variant in self.scenario.resolve()])
        return summary

    @property
    def variants(self) -> list[str]:
        """Names of the variants that ran."""
        return [row["name"] for row in self.summary["variants"]]

    @property
    def rounds(self) -> pd.DataFrame:
        """A row for each variant, seed and round; see docs/record.md for the columns."""
        import pandas as pd

        return pd.DataFrame([r for name in self.variants for r in self._rounds_of(name)])

    @property
    def model(self) -> nn.Module:
        """The final model of the first variant and seed; others by :meth:`load_model`."""
        return self.load_model()

    def load_model(self, variant: str | None = None, seed: int | None = None) -> nn.Module:
        """The final model of a variant and seed (default: the first of each).

        Raises
        ------
        RecordError
            If the run has no such variant, or its run under that seed has not come to its end.
        """
        from safetensors.torch import load_file

        from fedmac.build_devices import build_data, build_model

        if variant not in (None, *self.variants) or not self.variants:
            raise RecordError(f"variant = {variant!r}: not in {self.folder}; accepted: {', '.join(self.variants)}")
        name = self.variants[0] if variant is None else variant
        chosen = next(v for v in self.scenario.resolve() if v.name == name)
        seed = chosen.scenario.seed if seed is None else seed
        path = model_path(folder_of(self.scenario, self.folder, name), chosen, seed)
        if not path.is_file():
            raise RecordError(
                f"{path}: not there: {name} has not come to its end under seed {seed}; accepted: a finished run"
            )
        model = build_model(chosen.scenario, build_data(chosen.scenario, seed), seed)
        model.load_state_dict(load_file(path))
        return model

    def plot(self, x: str = "round") -> go.Figure:
        """Test accuracy, or test loss where there is none, against `x`: round, channel_uses, energy or air_time."""
        from fedmac.report.figures import accuracy_figure, loss_figure

        rounds = self.rounds
        draw = loss_figure if "test_loss" in rounds and "test_accuracy" not in rounds else accuracy_figure
        return draw(rounds, x=x)

    def _rounds_of(self, variant: str) -> list[dict[str, Any]]:
        path = folder_of(self.scenario, self.folder, variant) / ROUNDS
        return read_rounds(path) if path.exists() else []

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        import pandas as pd

        columns = ["rounds", "test_accuracy", "test_accuracy_std", "test_loss", "channel_uses"]
        columns += ["energy_j_per_device_mean", "energy_j_per_device_max", "air_time_s", "clock_s", "wall_s"]
        table = pd.DataFrame(self.summary["variants"], columns=["name", *columns]).set_index("name")
        return f"{table.to_html()}<p>{escape(str(self.folder / 'report.html'))}</p>"

    def __repr__(self) -> str:
        figures = ", ".join(
            f"{row['name']} {row['test_accuracy']:.3f}" if row.get("test_accuracy") is not None else row["name"]
            for row in self.summary["variants"]
        )
        return f"Run({str(self.folder)!r}: {figures})"


def run(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    out: str | Path | None = None,
    engine: str | None = None,
    workers: int | None = None,
    only: Iterable[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    sinks: Iterable[str] = (),
    report: bool = True,
    **overrides: Any,
) -> Run:
    """Run a scenario, all its variants and seeds, and return the run.

    Parameters
    ----------
    scenario : path, mapping or Scenario
        What to run; with `resume` also a run folder, whose scenario is finished there.
    out : path, optional
        Run folder; a new one, ``runs/NAME`` or ``runs/NAME-2`` and so on, if not given.
    engine : {"local", "flower", "deployment", "collective"}, optional
        Instead of the scenario's own.
    workers : int, optional
        Worker processes; one for each core if neither this nor the scenario says.
    only : iterable of str
        Variants to run; all if empty, but with `resume` those that the run was told to run.
    overwrite, resume : bool
        What to do with an `out` that holds a run: start anew, or do what is missing. A run that was cut off in the
        middle goes on after the last round that has a checkpoint.
    settings : mapping, optional
        Dotted keys to set, ``{"training.learning_rate": 0.1}``.
    progress : Progress, optional
        Shown while it runs; nothing by default.
    sinks : iterable of str
        Where rounds go beside the run folder: ``tensorboard``, ``mlflow``, ``prometheus[=HOST:PORT]``,
        ``textfile[=FILE]`` (:mod:`fedmac.sinks`).
    report : bool
        Whether to write report.html.
    **overrides
        Top-level keys or tables to set in the scenario and its variants: ``seed=1``, ``rounds=20``,
        ``training={"learning_rate": 0.1}``.

    Returns
    -------
    Run

    Raises
    ------
    ScenarioError
        If the scenario cannot run; before anything has started.
    RecordError
        If the folder is in the way, or cannot be written.

    Examples
    --------
    >>> import fedmac
    >>> r = fedmac.run("scenarios/quickstart.toml", rounds=20, only=["rlc"])  # doctest: +SKIP
    >>> r.rounds.tail(), r.summary, r.model, r.plot()  # doctest: +SKIP
    """
    changes = merge(nest(dict(settings or {})), nest(overrides))
    if engine is not None:
        changes = merge(changes, {"engine": {"kind": engine}})
    if workers is not None:
        changes = merge(changes, {"engine": {"workers": workers}})
    scenario, out = scenario_and_folder(scenario, out, resume=resume)
    checked = Scenario.load(scenario, changes)
    folder = Path(out) if out is not None else _free_folder(checked.name)
    only = tuple(only)
    if resume and not only:
        check_folder(folder, checked, overwrite=overwrite, resume=resume)  # another scenario's variants are not meant
        only = kept_only(folder)
    return perform_scenario(
        checked,
        folder,
        only=only,
        overwrite=overwrite,
        resume=resume,
        progress=progress,
        sinks=tuple(sinks),
        report=report,
    )


def _check_rows(path: Path, summary: Any, names: Sequence[str]) -> None:
    """Refuse a summary of other variants than the scenario's: their names are those of folders that are read."""
    rows = summary.get("variants") if isinstance(summary, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecordError(f"{path}: no list of variants in it; accepted: the summary that a run has written")
    for row in rows:
        if row.get("name") not in names:
            raise RecordError(
                f"{path}: name = {shown(row.get('name'))}: no variant of the scenario; accepted: {', '.join(names)}"
            )


Source = str | Path | Mapping[str, Any] | Scenario


def scenario_and_folder(scenario: Source, out: str | Path | None, *, resume: bool) -> tuple[Source, str | Path | None]:
    """What to run and where: of a run folder to resume, the scenario that is in it and the folder itself.

    Raises
    ------
    ScenarioError
        If it is a folder with a scenario, and not to be resumed or to run elsewhere.
    NoRunHere
        If it is to be resumed and is a folder without a run, or is not there.
    """
    if not isinstance(scenario, str | Path):
        return scenario, out
    folder = Path(scenario)
    if resume and out is None and not folder.exists():
        raise NoRunHere(f"{folder}: no such run folder; accepted: with --resume the folder of a run to finish")
    if not folder.is_dir():
        return scenario, out
    if not resume:
        if (folder / SCENARIO).is_file():
            raise ScenarioError(f"{folder}: a run folder; accepted: --resume to finish it, or a scenario file")
        return scenario, out
    if not (folder / SCENARIO).is_file():
        raise NoRunHere(f"{folder}: no {SCENARIO} in it, so no run to resume; accepted: a run folder")
    if out is not None and Path(out).absolute() != folder.absolute():
        raise ScenarioError(f"out = {str(out)!r}: {folder} is resumed where it is; accepted: out left out")
    return folder / SCENARIO, folder


def perform_scenario(
    scenario: Scenario,
    out: Path,
    *,
    only: tuple[str, ...],
    overwrite: bool,
    resume: bool,
    progress: Progress | None,
    sinks: tuple[str, ...],
    report: bool = True,
) -> Run:
    """Run a validated scenario into `out`; the summary and (with `report`) the page are written however it ends."""
    from fedmac.build import rehearse
    from fedmac.engines import check_engine, end_orphan
    from fedmac.logs import quiet_flower
    from fedmac.sinks import check_sinks, open_sinks

    check_sinks(sinks)
    scenario.resolve(only)  # refuses a name that is not there
    check_folder(out, scenario, overwrite=overwrite, resume=resume)
    check_engine(scenario, only)
    with quiet_flower():
        rehearse(scenario)
        with _alone_in(out):
            end_orphan(scenario, out)
            prepare(out, scenario, overwrite=overwrite, resume=resume, only=only)
            with _left_usable(scenario, out, report), open_sinks(sinks, out) as write_to_sinks, _shown(progress):
                _perform_jobs(scenario, out, only, write_to_sinks, progress)
    return Run(out)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with held(out, f"{out}: a run is going on in it; accepted: another folder, or wait"):
        yield


def _perform_jobs(
    scenario: Scenario, out: Path, only: tuple[str, ...], write_to_sinks: Sink, progress: Progress | None
) -> None:
    from fedmac.engines import run_jobs

    jobs = plan(scenario, out, only)
    log_begin(out, jobs)
    if progress is not None:
        progress.begin(jobs)

    def note(record: dict[str, Any]) -> None:
        write_to_sinks(record)
        if progress is not None:
            progress.note(record)

    run_jobs(scenario, out, jobs, note, only=only, workers=scenario.engine.workers or os.cpu_count() or 1)


@contextmanager
def _shown(progress: Progress | None) -> Iterator[None]:
    try:
        yield
    finally:
        if progress is not None:
            progress.end()


@contextmanager
def _left_usable(scenario: Scenario, out: Path, report: bool) -> Iterator[None]:
    """However the run ends, leave a summary, and a report if one is wanted, of what there is."""
    try:
        yield
    except BaseException:
        # Why the run ended matters more than what may go wrong now, on a full disk for example.
        with suppress(Exception):
            _sum_up(scenario, out, interrupted=True, report=report)
        raise
    _sum_up(scenario, out, interrupted=False, report=report)


def _sum_up(scenario: Scenario, out: Path, *, interrupted: bool, report: bool) -> None:
    summarise(scenario, out, interrupted=interrupted)
    if not report:
        return
    from fedmac.report import write_report

    with writing(out / "report.html"):
        write_report(out)


def _free_folder(name: str) -> Path:
    number, folder = 1, Path("runs") / name
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
