"""Parts together are the plan: in one process, in files, in processes and by messages."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fedmac.engines.processes import process_table
from strategies.repurpose import (
    BadPlan,
    Links,
    Plan,
    Worker,
    account,
    load_plan,
    part_of,
    repurpose,
    run_together,
    save_plan,
)
from strategies.repurpose.inference import WorkerDied
from strategies.repurpose.part_file import load_part, part_path, save_parts
from strategies.repurpose.part_run import MissingActivations, PartRun
from strategies.repurpose.processes import infer
from tests.end_to_end.federation import children_of, wait_for
from tests.strategies.repurpose.networks import convolutional, dense, inputs, residual

MODELS = [dense, convolutional, residual]


def plan_of(build: Callable[[], nn.Module], workers: int = 4, cost: float = 1e-3) -> Plan:
    """A plan that sends some activations, not all."""
    return repurpose(build(), inputs(build()), workers, cost)


@pytest.mark.parametrize("cost", [0.0, 1e-3, 1e6])
@pytest.mark.parametrize("build", MODELS)
def test_parts_together_are_the_plan_and_send_its_bytes(build: Callable[[], nn.Module], cost: float) -> None:
    plan, x = plan_of(build, cost=cost), inputs(build(), rows=7)
    outputs, sent = run_together([part_of(plan, worker) for worker in range(4)], x)
    assert (outputs - plan.run(x)).abs().max() < 1e-5
    assert sent == 7 * account(plan).bytes


def test_more_workers_than_outputs_leave_some_without() -> None:
    plan, x = plan_of(dense, workers=8), inputs(dense(), rows=3)
    outputs, sent = run_together([part_of(plan, worker) for worker in range(8)], x)
    assert torch.allclose(outputs, plan.run(x), atol=1e-6)
    assert sent == 3 * account(plan).bytes


@pytest.mark.parametrize("cost", [0.0, 1e-3, 1e6])
@pytest.mark.parametrize("speeds", [(1.0, 30.0), (30.0, 1.0), (1.0, 12.0)])
@pytest.mark.parametrize("build", MODELS)
def test_a_slow_worker_that_owns_no_unit_of_a_layer_takes_part(
    build: Callable[[], nn.Module], speeds: tuple[float, ...], cost: float
) -> None:
    x = inputs(build(), rows=3)
    plan = repurpose(build(), inputs(build()), [Worker(speed=speed) for speed in speeds], cost)
    owned = {len(set(owners.tolist())) for owners in plan.owners[1:]}
    assert 1 in owned
    outputs, sent = run_together([part_of(plan, worker) for worker in range(2)], x)
    # where nothing may be sent, refitted weights are large and cancel each other
    assert (outputs - plan.run(x)).abs().max() < 1e-4
    assert sent == 3 * account(plan).bytes


def test_a_part_holds_its_own_rows_only() -> None:
    plan = plan_of(dense)
    for step in plan.network.layers:
        rows = [part_of(plan, worker).layers[step.name].weights.bias.numel() for worker in range(4)]
        assert rows == [int((plan.owner_after(step) == worker).sum()) for worker in range(4)]


def test_a_part_refuses_what_is_not_planned() -> None:
    plan = plan_of(dense)
    part = part_of(plan, 0)
    run = PartRun({0: inputs(dense(), rows=2)})
    run.advance(part, {})
    with pytest.raises(MissingActivations, match="worker 0: before"):
        run.advance(part, {3: torch.zeros(2, 99, 1)})


@pytest.mark.parametrize("build", MODELS)
def test_a_plan_saved_and_loaded_is_the_same(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    plan, x = plan_of(build), inputs(build(), rows=5)
    save_plan(plan, tmp_path)
    save_parts(plan, tmp_path / "parts")
    again = load_plan(tmp_path, build())
    assert torch.equal(again.run(x), plan.run(x))
    assert account(again).bytes == account(plan).bytes
    parts = [load_part(part_path(tmp_path / "parts", worker)) for worker in range(4)]
    assert torch.allclose(run_together(parts, x)[0], plan.run(x), atol=1e-5)


def test_a_plan_of_another_model_is_refused(tmp_path: Path) -> None:
    save_plan(plan_of(dense), tmp_path)
    with pytest.raises(BadPlan, match="model: its hash is"):
        load_plan(tmp_path, dense(seed=1))


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("plan.toml", lambda text: text[: len(text) // 2], "damaged plan|not the file"),
        ("plan.toml", lambda text: text.replace(b"format = 1", b"format = 9"), "format = 9; accepted: 1"),
        ("plan.toml", lambda text: text.replace(b'"relu"', b'"system"'), "kind = 'system'"),
        ("plan.safetensors", lambda text: text[:-1] + bytes([text[-1] ^ 1]), "not the file that plan.toml"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, name: str, spoil: Callable[[bytes], bytes], said: str) -> None:
    save_plan(plan_of(dense), tmp_path)
    (tmp_path / name).write_bytes(spoil((tmp_path / name).read_bytes()))
    with pytest.raises(BadPlan, match=said):
        load_plan(tmp_path)


def test_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="no plan here"):
        load_plan(tmp_path)
    with pytest.raises(BadPlan, match="no part here"):
        load_part(tmp_path / "part-0.safetensors")


def test_processes_give_the_plans_outputs_and_send_its_bytes() -> None:
    plan, x = plan_of(residual), inputs(residual(), rows=5)
    done = infer(plan, x, batch=2)
    assert (done.outputs - plan.run(x)).abs().max() < 1e-5
    assert done.bytes_sent == 5 * account(plan).bytes
    assert len(done.batch_seconds) == 3
    assert min(done.batch_seconds) > 0
    machine = done.machine
    assert machine is not None
    assert account(plan).latency([Worker(speed=machine.speed)] * 4, Links.equal(4, machine.rate, machine.delay)) > 0


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        (signal.SIGKILL, "worker 2 of 3 was ended by SIGKILL"),
        (signal.SIGSTOP, r"workers \[.*2.*\] did not answer within 1 s"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_named_in_time(sign: signal.Signals, said: str) -> None:
    signalled(3, 2, sign, said)


def test_a_worker_alone_that_hangs_is_ended_in_time() -> None:
    signalled(1, 0, signal.SIGSTOP, r"workers \[0\] did not answer within 1 s")


def signalled(workers: int, rank: int, sign: signal.Signals, said: str) -> None:
    """Run a plan and send one of its workers a signal while it is at work."""
    plan = plan_of(dense, workers=workers)
    x = inputs(dense(), rows=1).repeat(200_000, 1)  # more than can be through before the signal

    def hit() -> None:
        while True:
            for child in multiprocessing.active_children():
                if child.name == f"worker-{rank}" and child.pid is not None:
                    time.sleep(0.5)
                    os.kill(child.pid, sign)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=hit, daemon=True)
    killer.start()
    with pytest.raises(WorkerDied, match=said):
        infer(plan, x, timeout=1.0)
    killer.join()
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("worker-")]


ENDLESS = """
import torch
from strategies.repurpose import repurpose
from strategies.repurpose.processes import infer
from tests.strategies.repurpose.networks import dense, inputs
infer(repurpose(dense(), inputs(dense()), 2, 1e-3), inputs(dense(), rows=1).repeat(1_000_000, 1))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_workers_end_when_the_process_that_asked_is_killed() -> None:
    asking = subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=Path(__file__).parents[3])
    try:
        # the resource tracker, the fork server and two workers
        wait_for(lambda: len(children_of(asking.pid)) >= 4 or asking.poll() is not None, 60, "the workers")
        started = {pid: process_table()[pid] for pid in children_of(asking.pid)}
        assert len(started) >= 4
    finally:
        asking.kill()
        asking.wait()
    wait_for(lambda: not [pid for pid, (_, start) in started.items() if start == start_of(pid)], 30, "their end")


def start_of(pid: int) -> str | None:
    """When a process that lives was started."""
    row = process_table().get(pid)
    return None if row is None else row[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": torch.zeros(3, 5)}, r"inputs of shape \(3, 5\)"),
        ({"inputs": torch.zeros(3, 12, dtype=torch.float64)}, "type torch.float64; accepted: torch.float32"),
        ({"batch": 0}, "batch = 0"),
        ({"timeout": 0.0}, "timeout = 0"),
    ],
)
def test_inference_refuses_bad_input(changes: dict[str, object], said: str) -> None:
    arguments = {"inputs": inputs(dense(), rows=3), **changes}
    with pytest.raises(ValueError, match=said):
        infer(plan_of(dense), **arguments)  # type: ignore[arg-type]
