"""Run a scenario, and read what a run has left."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmac.record import ROUNDS, SCENARIO, SUMMARY, RecordError, prepare, read_rounds
from fedmac.scenario import Scenario, merge
from fedmac.session import Job, plan, summarise

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import nn

    from fedmac.progress import Progress


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
        if not (self.folder / SUMMARY).is_file():
            raise RecordError(f"{self.folder}: no run here (no {SUMMARY}); accepted: a folder that a run has written")
        self.summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        self.scenario = Scenario.load(self.folder / SCENARIO)

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
        """The final model of a variant and seed (default: the first of each)."""
        from safetensors.torch import load_file

        from fedmac.build import build_data, build_model

        name = self.variants[0] if variant is None else variant
        scenario = next(v.scenario for v in self.scenario.resolve() if v.name == name)
        first = scenario.seed
        seed = first if seed is None else seed
        model = build_model(scenario, build_data(scenario, seed), seed)
        file = "model.safetensors" if seed == first else f"model-seed-{seed}.safetensors"
        model.load_state_dict(load_file(self._folder_of(name) / file))
        return model

    def plot(self, x: str = "round") -> go.Figure:
        """Test accuracy against `x`: round, channel_uses, energy or air_time."""
        from fedmac.report.figures import accuracy_figure

        return accuracy_figure(self.rounds, x=x)

    def _folder_of(self, variant: str) -> Path:
        return self.folder / variant if self.scenario.variants else self.folder

    def _rounds_of(self, variant: str) -> list[dict[str, Any]]:
        path = self._folder_of(variant) / ROUNDS
        return read_rounds(path) if path.exists() else []

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
    **overrides: Any,
) -> Run:
    """Run a scenario, all its variants and seeds, and return the run.

    Parameters
    ----------
    scenario : path, mapping or Scenario
        What to run.
    out : path, optional
        Run folder; a new one, ``runs/NAME`` or ``runs/NAME-2`` and so on, if not given.
    engine : {"local", "flower"}, optional
        Instead of the scenario's own.
    workers : int, optional
        Worker processes; one for each core if neither this nor the scenario says.
    only : iterable of str
        Variants to run; all if empty.
    overwrite, resume : bool
        What to do with an `out` that holds a run: start anew, or do what is missing.
    settings : mapping, optional
        Dotted keys to set, ``{"training.learning_rate": 0.1}``.
    progress : Progress, optional
        Shown while it runs; nothing by default.
    sinks : iterable of {"tensorboard", "mlflow"}
        Where rounds go beside the run folder; each needs the extra of its name.
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
    from fedmac.scenario import nest

    changes = merge(nest(dict(settings or {})), nest(overrides))
    if engine is not None:
        changes = merge(changes, {"engine": {"kind": engine}})
    if workers is not None:
        changes = merge(changes, {"engine": {"workers": workers}})
    checked = Scenario.load(scenario, changes)
    folder = Path(out) if out is not None else _free_folder(checked.name)
    return perform_scenario(
        checked,
        folder,
        only=tuple(only),
        overwrite=overwrite,
        resume=resume,
        progress=progress,
        sinks=tuple(sinks),
    )


def perform_scenario(
    scenario: Scenario,
    out: Path,
    *,
    only: tuple[str, ...],
    overwrite: bool,
    resume: bool,
    progress: Progress | None,
    sinks: tuple[str, ...],
) -> Run:
    """Run a validated scenario into `out`; the summary and the report are written however it ends."""
    from fedmac.build import rehearse
    from fedmac.engines import run_jobs
    from fedmac.learn import quiet_flower
    from fedmac.report import write_report
    from fedmac.sinks import open_sinks

    with quiet_flower(), open_sinks(sinks, out) as write_to_sinks:
        rehearse(scenario)
        prepare(out, scenario, overwrite=overwrite, resume=resume)
        jobs = plan(scenario, out, only)

        def note(record: dict[str, Any]) -> None:
            write_to_sinks(record)
            if progress is not None:
                progress.note(record)

        finished = False
        try:
            if progress is not None:
                progress.begin(jobs)
            run_jobs(scenario, out, jobs, note, only=only, workers=scenario.engine.workers or os.cpu_count() or 1)
            finished = True
        finally:
            if progress is not None:
                progress.end()
            _leave_usable(scenario, out, jobs, finished)
    write_report(out)
    return Run(out)


def _leave_usable(scenario: Scenario, out: Path, jobs: list[Job], finished: bool) -> None:
    """Summary and report of what there is; where the run itself failed, its error matters more than ours."""
    from fedmac.report import write_report

    try:
        summarise(scenario, out, jobs, interrupted=not finished)
        if not finished:
            write_report(out)
    except (RecordError, OSError):
        if finished:
            raise


def _free_folder(name: str) -> Path:
    number, folder = 1, Path("runs") / name
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
