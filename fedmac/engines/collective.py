"""The engine of systems without a server: a process for each device, started by torchrun, here or on several hosts."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from clients.training import compute_device
from fedmac.engines.superlink import EngineError
from fedmac.scenario_errors import ScenarioError

if TYPE_CHECKING:
    from fedmac.scenario import Scenario, Variant
    from fedmac.session import Job
    from strategies.peers.collective import CollectivePeer
    from strategies.peers.peer import Vector

LOG = "collective.log"
"""In the run folder: what the processes said."""

POLL_SECONDS = 0.1
STOP_SECONDS = 10.0


def run_collectively(out: Path, jobs: Sequence[Job], only: Sequence[str], on_poll: Callable[[], None]) -> None:
    """Start a process for each peer on this machine, and wait for them.

    Parameters
    ----------
    out : Path
        The run folder, prepared.
    jobs : sequence of Job
        What is to be done; the processes do it one after the other.
    only : sequence of str
        Variants to run; all if empty.
    on_poll : callable
        Called again and again meanwhile.

    Raises
    ------
    EngineError
        If the variants are of different numbers of peers, or the processes fail.
    """
    from fedmac.build_peers import count_peers
    from fedmac.record import SCENARIO

    counts = {count_peers(job.variant.scenario) for job in jobs}
    if len(counts) != 1:
        raise EngineError(
            f"data.devices: the variants have {sorted(counts)} peers; accepted on the collective engine: one number"
        )
    threads = max(job.variant.scenario.training.threads for job in jobs)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(counts.pop())]
    names = [word for name in only for word in ("--only", name)]
    launch += ["-m", "fedmac.engines.collective", str(out / SCENARIO), "--out", str(out), "--prepared", *names]
    with (out / LOG).open("ab") as log:
        start = log.tell()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(launch, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                on_poll()
                time.sleep(POLL_SECONDS)
        finally:
            _stop(process)
    on_poll()
    if process.returncode:
        raise EngineError(f"{last_words(out / LOG, start)}; see {out / LOG}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one of the processes; ``torchrun`` starts this on each host, ``-m fedmac.engines.collective SCENARIO``.

    Process 0 writes the run folder, on its host.
    """
    given = _parser().parse_args(arguments)
    try:
        _take_part(given)
    except (ScenarioError, EngineError, RuntimeError, ValueError) as error:
        print(f"fedmac: {error}", file=sys.stderr)
        return 1
    return 0


class _StepOfJob:
    """The local step of whichever job is on."""

    step: Callable[[int, int, Vector], Vector]

    def __call__(self, peer: int, step: int, x: Vector) -> Vector:
        return self.step(peer, step, x)


def _take_part(given: argparse.Namespace) -> None:
    from fedmac.build import rehearse
    from fedmac.build_peers import count_peers
    from fedmac.record import prepare
    from fedmac.scenario import Scenario
    from fedmac.session import plan, summarise
    from strategies.peers.collective import joined

    number, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    scenario = Scenario.load(given.scenario, {"engine.kind": "collective"})
    out = Path(given.out or Path("runs") / scenario.name).absolute()
    variants = scenario.resolve(given.only)
    for variant in variants:
        if (peers := count_peers(variant.scenario)) != world:
            raise EngineError(
                f'data.devices: variant "{variant.name}" has {peers} peers, but torchrun has started {world} '
                f"processes; accepted: as many, --nproc-per-node {peers} on one host"
            )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    device = where_vectors_lie(variants)
    if number == 0 and not given.prepared:
        rehearse(scenario)
    local_step, seconds = _StepOfJob(), scenario.engine
    with joined(local_step, seconds.round_timeout_s, join_s=seconds.nodes_timeout_s, device=device) as peer:
        if scenario.engine.backend == "nccl" and peer.messages.backend != "nccl":
            raise EngineError(_no_nccl(str(peer.why_host)))
        if number:
            _follow_all(variants, peer, local_step)
            return
        print(f"models go by {peer.messages.backend}" + (f": {peer.why_host}" if peer.why_host else ""))
        if not given.prepared:
            prepare(out, scenario, overwrite=given.overwrite, resume=given.resume, only=given.only)
        for job in plan(scenario, out, given.only):
            _lead(job, peer, local_step)
    if not given.prepared:
        from fedmac.report import write_report

        summarise(scenario, out)
        write_report(out)


def where_vectors_lie(variants: Sequence[Variant]) -> torch.device | None:
    """This process's GPU if all variants train on it; None for the host's memory."""
    if not _use_gpus(variants):
        return None
    current = torch.cuda.current_device()
    devices = {compute_device(variant.scenario.training.device) for variant in variants}
    return torch.device("cuda", current) if all(one.index in (None, current) for one in devices) else None


def check_backend(scenario: Scenario, only: Sequence[str] = ()) -> None:
    """Refuse NCCL where the processes that are started here cannot use it.

    Raises
    ------
    EngineError
        Naming what is missing.
    """
    from fedmac.build_peers import count_peers

    if scenario.engine.backend != "nccl":
        return
    variants = scenario.resolve(only)
    if not _use_gpus(variants):
        raise EngineError(_no_nccl("training is not on GPUs"))
    gpus, processes = torch.cuda.device_count(), max(count_peers(one.scenario) for one in variants)
    if gpus < processes:
        raise EngineError(_no_nccl(f"{processes} processes, GPUs here: {gpus}"))


def _use_gpus(variants: Sequence[Variant]) -> bool:
    return all(
        one.scenario.engine.backend != "gloo" and compute_device(one.scenario.training.device).type == "cuda"
        for one in variants
    )


def _no_nccl(why: str) -> str:
    return f'engine.backend = "nccl": {why}; accepted: a GPU for each process, or "gloo"'


def _lead(job: Job, peer: CollectivePeer, local_step: _StepOfJob) -> None:
    from fedmac.build_devices import build_workplace
    from fedmac.learn_collective import NOT_AGAIN, CollectivePart, lead_collective
    from fedmac.session import carry_out

    if job.done:
        for other in range(1, peer.peers):
            peer.host.send(other, np.array([float(NOT_AGAIN)]))
        return
    workplace = build_workplace(job.variant.scenario, job.seed)
    part = CollectivePart(job.variant, job.seed, peer, workplace)
    local_step.step = part.step
    torch.set_num_threads(job.variant.scenario.training.threads)
    carry_out(job, workplace, lambda task: lead_collective(task, part), lambda _record: None)


def _follow_all(variants: Sequence[Variant], peer: CollectivePeer, local_step: _StepOfJob) -> None:
    from fedmac.build_devices import build_workplace
    from fedmac.learn_collective import CollectivePart, follow_collective

    for variant in variants:
        for seed in variant.scenario.run_seeds:
            part = CollectivePart(variant, seed, peer, build_workplace(variant.scenario, seed))
            local_step.step = part.step
            torch.set_num_threads(variant.scenario.training.threads)
            follow_collective(part)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedmac.engines.collective", description=main.__doc__)
    parser.add_argument("scenario", help="TOML file")
    parser.add_argument("--out", help="run folder (default: runs/NAME)")
    parser.add_argument("--only", action="append", default=[], help="a variant to run; all if not given")
    parser.add_argument("--resume", action="store_true", help="go on in a folder that holds a run")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that the folder holds")
    parser.add_argument("--prepared", action="store_true", help="the folder is ready (`fedmac run` says so)")
    return parser


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the processes if they are still there."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_words(log: Path, start: int) -> str:
    """Why the processes ended, as the first of them said, or else which of them was the first, as torchrun says."""
    said = log.read_bytes()[start:].decode("utf-8", "replace")
    if ours := re.search(r"^fedmac: (.*)", said, re.MULTILINE):
        return ours[1]
    first = re.search(r"first observed failure.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", said, re.DOTALL)
    return f"process {first[1]} ended with exit code {first[2]}" if first else "the processes ended without a reason"


if __name__ == "__main__":
    sys.exit(main())
