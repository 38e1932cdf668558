"""Engines: where the devices of a scenario run. The same strategy, devices and air on each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedmac.record import SCENARIO
from fedmac.scenario import Scenario
from fedmac.session import Job, perform

ENGINES = {
    "local": "in this process and its workers; deterministic, no messages serialised (default)",
    "flower": "Flower's simulation engine on Ray; needs the extra 'simulation'",
}
"""Engines by name, with a line for `fedmac list`."""


def run_jobs(
    scenario: Scenario,
    out: Path,
    jobs: Sequence[Job],
    note: Callable[[dict[str, Any]], None],
    *,
    only: Sequence[str] = (),
    workers: int,
) -> None:
    """Run the jobs that are not done yet on the scenario's engine; `note` is called with each round's record."""
    pending = [job for job in jobs if not job.done]
    if not pending:
        return
    if scenario.engine.kind == "flower":
        _run_on_flower(out, pending, note, only, workers)
    else:
        for job in pending:
            _run_locally(job, note, workers)


def _run_locally(job: Job, note: Callable[[dict[str, Any]], None], workers: int) -> None:
    from clients.app import client_app
    from fedmac.build import build_workplace
    from fedmac.engines.local import LocalGrid

    scenario = job.variant.scenario
    workplace = build_workplace(scenario, job.seed)
    # A GPU is one resource: more processes would only queue for it.
    workers = workers if workplace.trainer.device.type == "cpu" else 1
    app = client_app(lambda _context, _config: workplace)
    memory = scenario.engine.memory_mb * 10**6
    with LocalGrid(workplace, app, workers=workers, threads=scenario.training.threads, memory=memory) as grid:
        perform(job, grid, workplace, note)


def _run_on_flower(
    out: Path, jobs: Sequence[Job], note: Callable[[dict[str, Any]], None], only: Sequence[str], workers: int
) -> None:
    """One Flower app run for all jobs; its rounds are read from the run folder as they appear."""
    from fedmac.engines.flower import EngineError, FlowerSimulation, Scalar, run_simulation, write_app

    nodes = {job.variant.scenario.data.devices for job in jobs}
    if len(nodes) != 1:
        raise EngineError(
            f"data.devices: the variants have {sorted(nodes)} devices; accepted on the flower engine: one number"
        )
    cluster = jobs[0].variant.scenario.engine.ray_address
    simulation = FlowerSimulation(nodes=nodes.pop(), total_cpus=None if cluster else workers, ray_address=cluster)
    out = out.absolute()
    follow = _Follower([job.folder.rounds for job in jobs], note)
    follow.skip()
    config: dict[str, Scalar] = {
        "scenario": (out / SCENARIO).read_text(encoding="utf-8") + "\n",
        "overrides": "",
        "only": ",".join(only),
        "out": str(out),
        "prepared": True,
    }
    with tempfile.TemporaryDirectory(prefix="fedmac-app-") as directory:
        app = write_app(Path(directory) / "app", config)
        run_simulation(app, config, simulation, log=out / "flower.log", on_poll=follow)
    follow()
    unfinished = [f"{job.variant.name} (seed {job.seed})" for job in jobs if not job.done]
    if unfinished:
        raise EngineError(f"Flower ended without finishing {', '.join(unfinished)}; see {out / 'flower.log'}")


class _Follower:
    """Hands over the lines that another process appends to some files of rounds."""

    def __init__(self, paths: Sequence[Path], note: Callable[[dict[str, Any]], None]) -> None:
        self.offsets = dict.fromkeys(paths, 0)
        self.note = note

    def skip(self) -> None:
        """Start at the present ends of the files."""
        for path in self.offsets:
            self.offsets[path] = path.stat().st_size if path.exists() else 0

    def __call__(self) -> None:
        for path, offset in self.offsets.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.offsets[path] += len(line)
                    self.note(json.loads(line))
