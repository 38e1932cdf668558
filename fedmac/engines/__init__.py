"""Engines: where the devices of a scenario run. The same strategy, devices and air on each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # starting a device's SuperNode imports from here and needs none of it
    from fedmac.scenario import Scenario
    from fedmac.session import Job

ENGINES = {
    "local": "in this process and its workers; deterministic, no messages serialised (default)",
    "flower": "Flower's simulation engine on Ray; needs the extra 'simulation'",
    "deployment": "real devices, connected to a SuperLink (`fedmac deploy`, engine.superlink)",
    "collective": "a process for each device of a system without a server, by torchrun (gloo or NCCL)",
}
"""Engines by name, with a line for `fedmac list`."""


def check_engine(scenario: Scenario, only: Sequence[str] = ()) -> None:
    """Refuse an engine that cannot be used, before anything is written; `only` are variants to run, all if empty.

    Raises
    ------
    ScenarioError
        If ``engine.superlink`` names no SuperLink.
    EngineError
        If that SuperLink does not answer, its certificate is not accepted, devices are missing, or GPUs for NCCL are.
    """
    if scenario.engine.kind == "collective":
        from fedmac.engines.collective import check_backend

        check_backend(scenario, only)
    if scenario.engine.kind == "deployment":
        from fedmac.engines.deployment import answering, superlink_at, wait_for_devices

        where, seconds = str(scenario.engine.superlink), scenario.engine.nodes_timeout_s
        with answering(where):
            control = superlink_at(where)
            control.healthy()
            numbers = {variant.scenario.data.devices for variant in scenario.resolve()}
            if len(numbers) == 1:  # several are refused when it is known which variants are to run
                wait_for_devices(control, numbers.pop(), seconds)


def end_orphan(scenario: Scenario, out: Path) -> None:
    """End the run that goes on in a folder whose command was killed; whoever calls this holds the folder.

    Raises
    ------
    EngineError
        If it does not end, or the server does not answer.
    """
    if scenario.engine.kind == "deployment" and out.exists():
        from fedmac.engines.deployment import answering, superlink_at
        from fedmac.engines.deployment import end_orphan as end_orphan_on

        where = str(scenario.engine.superlink)
        with answering(where):
            end_orphan_on(superlink_at(where), out)


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
    if scenario.engine.kind == "collective":
        from fedmac.engines.collective import run_collectively

        follow = _Follower([job.folder.rounds for job in pending], note)
        follow.skip()
        run_collectively(out.absolute(), pending, only, follow)
    elif scenario.engine.kind != "local":
        _run_as_app(scenario, out, pending, note, only, workers)
    else:
        for job in pending:
            _run_locally(job, note, workers)


def _run_locally(job: Job, note: Callable[[dict[str, Any]], None], workers: int) -> None:
    from clients.app import client_app
    from fedmac.build_devices import build_workplace
    from fedmac.engines.batched_devices import devices_of_a_batch
    from fedmac.engines.local import LocalGrid
    from fedmac.scenario_clock import is_clock_simulated
    from fedmac.scenario_sections import EngineSection
    from fedmac.session import perform

    scenario = job.variant.scenario
    workplace = build_workplace(scenario, job.seed)
    # A GPU is one resource: more processes would only queue for it.
    workers = workers if workplace.trainer.device.type == "cpu" else 1
    app = client_app(lambda _context, _config: workplace)
    memory = scenario.engine.memory_mb * 10**6
    batch = devices_of_a_batch(scenario.engine.batched_devices, workplace.trainer, memory)
    threads = scenario.training.threads
    # Of a simulated clock the key is in simulated seconds: workers take real ones.
    simulated = is_clock_simulated(scenario)
    patience = (EngineSection() if simulated else scenario.engine).round_timeout_s
    with LocalGrid(
        workplace, app, workers=workers, threads=threads, memory=memory, batch=batch, patience=patience
    ) as grid:
        perform(job, grid, workplace, note)


def _run_as_app(
    scenario: Scenario,
    out: Path,
    jobs: Sequence[Job],
    note: Callable[[dict[str, Any]], None],
    only: Sequence[str],
    workers: int,
) -> None:
    """One Flower app run for all jobs; its rounds are read from the run folder as they appear."""
    from fedmac.engines.flower import Scalar, write_app
    from fedmac.engines.superlink import EngineError
    from fedmac.record import FLOWER_LOG, SCENARIO

    nodes = {job.variant.scenario.data.devices for job in jobs}
    if len(nodes) != 1:
        kind = scenario.engine.kind
        raise EngineError(
            f"data.devices: the variants have {sorted(nodes)} devices; accepted on the {kind} engine: one number"
        )
    out = out.absolute()
    follow = _Follower([job.folder.rounds for job in jobs], note)
    follow.skip()
    config: dict[str, Scalar] = {
        "scenario": (out / SCENARIO).read_text(encoding="utf-8") + "\n",
        "overrides": "",
        "only": json.dumps(list(only)),
        "out": str(out),
        "prepared": True,
    }
    start = _on_deployment if scenario.engine.kind == "deployment" else _on_simulation
    with tempfile.TemporaryDirectory(prefix="fedmac-app-") as directory:
        app = write_app(Path(directory) / "app", config)
        start(scenario, app, config, nodes.pop(), workers, out / FLOWER_LOG, follow)
    follow()
    unfinished = [f"{job.variant.name} (seed {job.seed})" for job in jobs if not job.done]
    if unfinished:
        raise EngineError(f"Flower ended without finishing {', '.join(unfinished)}; see {out / FLOWER_LOG}")


def _on_simulation(
    scenario: Scenario,
    app: Path,
    config: dict[str, Any],
    nodes: int,
    workers: int,
    log: Path,
    follow: Callable[[], None],
) -> None:
    from fedmac.engines.flower import FlowerSimulation, run_simulation

    cluster = scenario.engine.ray_address
    simulation = FlowerSimulation(nodes=nodes, total_cpus=None if cluster else workers, ray_address=cluster)
    run_simulation(app, config, simulation, log=log, on_poll=follow)


def _on_deployment(
    scenario: Scenario,
    app: Path,
    config: dict[str, Any],
    nodes: int,
    workers: int,
    log: Path,
    follow: Callable[[], None],
) -> None:
    from fedmac.engines.deployment import run_on_superlink, superlink_at

    where, seconds = str(scenario.engine.superlink), scenario.engine.nodes_timeout_s
    control = superlink_at(where)
    run_on_superlink(app, config, control, devices=nodes, nodes_timeout=seconds, log=log, on_poll=follow)


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
