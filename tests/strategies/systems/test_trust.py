"""Systems believe workers as far as `trust` says: too long, not finite or empty replies are refused and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from channel.codecs import TopK
from fedmac.clock.faults import Incident
from fedmac.engines.lanes import FIRST_NODE
from fedmac.state_file import read_state, write_state
from strategies.refusal import BadPayload, Failure
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.coded_updates import CodedUpdates
from strategies.systems.fedbuff import FedBuff
from strategies.systems.model_form import ModelForm
from strategies.systems.server_system import ServerSystem
from strategies.systems.stale_synchronous import StaleSynchronous
from strategies.systems.synchronous import Synchronous
from strategies.systems.update import read_update
from strategies.systems.worker_trust import WorkerTrust
from strategies.trust import Trust
from tests.fedmac.clock.simulated import Answer, Vector, clocked, one_more, vector
from tests.strategies.systems.least_squares import Run, kept_within, resumed_from, run, sgd_step

SYSTEMS: dict[str, Callable[[], ServerSystem]] = {
    "synchronous": Synchronous,
    "synchronous, waits": lambda: Synchronous(on_lost="wait"),
    "synchronous, backup": lambda: Synchronous(backup_workers=1),
    "asynchronous": lambda: Asynchronous(server_learning_rate=0.2),
    "two at a time": lambda: Asynchronous(server_learning_rate=0.2, concurrency=2),
    "stale-synchronous": lambda: StaleSynchronous(staleness_bound=1),
    "fedbuff": lambda: FedBuff(buffer=2),
}
SECONDS = [1.0, 1.3, 1.7, 1.9, 1.1]
BAD = 3
"""The device that does harm."""


def believing(make: Callable[[], ServerSystem], **given: float) -> ServerSystem:
    """A system with numbers for its nodes, and such a trust."""
    system = make()
    system.numbers = {FIRST_NODE + device: device for device in range(len(SECONDS))}
    system.trust = Trust(**given)  # type: ignore[arg-type]
    return system


def with_bad(harm: Answer, of: int = BAD) -> Answer:
    """Devices that step, and one that does harm."""
    return lambda device, x, step: harm(device, x, step) if device == of else sgd_step(device, x, step)


def nan(device: int, x: Vector, step: int) -> Vector:
    return np.full_like(x, np.nan)


def huge(device: int, x: Vector, step: int) -> Vector:
    return x + 1e10


def asked_in(told: Run, device: int) -> list[bool]:
    """Of each round whether the device was in quarantine at its end."""
    return [any(one["device"] == device for one in figures.get("not_asked", ())) for figures in told.figures]


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(("harm", "kind"), [(nan, "not-finite"), (huge, "norm")])
def test_a_worker_of_no_use_is_counted_left_out_and_waited_for_by_nobody(name: str, harm: Answer, kind: str) -> None:
    system = believing(SYSTEMS[name], quarantine_rounds=1000)
    told = run(system, clocked(with_bad(harm), SECONDS), 30)
    last = told.figures[-1]
    assert "stopped" not in last
    assert len(told.figures) == 30
    assert last["bad_replies"] == {"3": {kind: 3}}
    assert last["not_asked"] == [{"device": BAD, "reason": last["not_asked"][0]["reason"]}]
    assert last["not_asked"][0]["reason"].startswith("quarantined until round")
    assert sum(one["kind"] == kind for figures in told.figures for one in figures["failed"]) == 3
    assert np.linalg.norm(told.final - np.arange(5)) < 1.0  # it learns: zero is 5.5 from there


@pytest.mark.parametrize("first", range(2))
def test_of_a_synchronous_round_no_update_is_too_early_to_be_refused(first: int) -> None:
    # The median of the round shows only at its end, when what came first is there already.
    seconds = [0.5 if device == first else 1.0 for device in range(5)]
    told = run(believing(Synchronous), clocked(with_bad(huge, first), seconds), 1)
    assert told.figures[0]["accepted"] == 4
    assert told.figures[0]["bad_replies"] == {str(first): {"norm": 1}}
    assert np.linalg.norm(told.final) < 10


def test_a_quarantine_ends_and_the_worker_is_one_of_them_again() -> None:
    def recovers(device: int, x: Vector, step: int) -> Vector:
        return nan(device, x, step) if step <= 2 else sgd_step(device, x, step)

    for name in SYSTEMS:
        system = believing(SYSTEMS[name], bad_replies=2, quarantine_rounds=3)
        grid = clocked(with_bad(recovers), SECONDS)
        told = run(system, grid, 20)
        assert sum(device == BAD for device, _, _ in grid.grid.asked) > 4, name  # type: ignore[attr-defined]
        left_out = asked_in(told, BAD)
        assert any(left_out), name
        assert not any(left_out[-5:]), name
        assert told.figures[-1]["bad_replies"] == {"3": {"not-finite": 2}}, name
        # All of its rounds, and the one in which it was judged.
        assert sum(left_out) <= 4, name


def test_with_no_bound_and_no_quarantine_everything_finite_is_believed() -> None:
    system = believing(Asynchronous, bad_replies=0, largest_norm_ratio=float("inf"))
    told = run(system, clocked(with_bad(huge), SECONDS), 10)
    assert "bad_replies" not in told.figures[-1]
    assert np.linalg.norm(told.final) > 1e9


def test_what_most_workers_get_wrong_counts_against_none() -> None:
    def diverged(device: int, x: Vector, step: int) -> Vector:
        return nan(device, x, step) if step > 1 else one_more(device, x, step)

    told = run(believing(Asynchronous, bad_replies=2), clocked(diverged, [1.0] * 4), 9, size=1)
    last = told.figures[-1]
    assert last["stopped"].startswith("41 times in a row a worker brought nothing")
    assert all(sum(kinds.values()) > 5 for kinds in last["bad_replies"].values())
    assert "not_asked" not in last


def test_errors_and_silence_are_nothing_bad() -> None:
    def fails(device: int, x: Vector, step: int) -> Vector:
        raise ValueError("no memory left")

    told = run(believing(Asynchronous, bad_replies=1), clocked(with_bad(fails), SECONDS), 5)
    assert {one["kind"] for figures in told.figures for one in figures["failed"]} == {"error"}
    assert all("bad_replies" not in figures and "not_asked" not in figures for figures in told.figures)


@pytest.mark.parametrize("name", SYSTEMS)
def test_with_only_the_quarantined_left_they_are_asked_again(name: str) -> None:
    def recovers(device: int, x: Vector, step: int) -> Vector:
        return nan(device, x, step) if step <= 1 else sgd_step(device, x, step)

    gone = [Incident(device, "crash", 20.0) for device in range(5) if device != BAD]
    system = believing(SYSTEMS[name], bad_replies=1, quarantine_rounds=1000)
    grid = clocked(with_bad(recovers), SECONDS, incidents=gone)
    if name == "synchronous, waits":
        assert run(system, grid, 60).figures[-1]["stopped"].startswith("nothing can happen any more")
        return
    told = run(system, grid, 60)
    assert told.figures[-1]["connected"] == 1
    assert "stopped" not in told.figures[-1]
    assert "not_asked" not in told.figures[-1]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_resumed_run_leaves_out_whom_the_unbroken_one_does(name: str, tmp_path: Path) -> None:
    def make() -> ServerSystem:
        return believing(SYSTEMS[name], bad_replies=2, quarantine_rounds=4)

    unbroken = run(make(), clocked(with_bad(nan), SECONDS), 16)
    assert any(asked_in(unbroken, BAD))
    for after in (1, 4, 9):
        killed = run(make(), clocked(with_bad(nan), SECONDS), after, states=True)
        system, clock = killed.states[-1]
        write_state(tmp_path / "state.safetensors", {"system": system, "clock": clock})
        kept = read_state(tmp_path / "state.safetensors")
        resumed, grid = make(), clocked(with_bad(nan), SECONDS)
        resumed.go_on_from(after, kept["system"])
        grid.restore(kept["clock"])
        rest = run(resumed, grid, 16)
        assert rest.figures == unbroken.figures[after:]
        assert np.array_equal(rest.models, unbroken.models[after + 1 :])


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_resumed_within_a_round_leaves_out_whom_the_unbroken_one_does(name: str, tmp_path: Path) -> None:
    def make() -> ServerSystem:
        return believing(SYSTEMS[name], bad_replies=2, quarantine_rounds=2)

    unbroken, kept = kept_within(make(), clocked(with_bad(nan), SECONDS), tmp_path / "state.safetensors", 10)
    assert any(asked_in(unbroken, BAD))
    within = [one for one in kept if not one["over"]]
    assert any(one["system"]["out"] for one in within)
    for one in within:
        rest = resumed_from(one, make(), clocked(with_bad(nan), SECONDS), 10)
        assert rest.figures == unbroken.figures[one["round"] :]
        assert np.array_equal(rest.models, unbroken.models[one["round"] + 1 :])


def test_a_state_from_before_there_was_trust_is_gone_on_from() -> None:
    first = run(Asynchronous(), clocked(one_more, SECONDS), 3, size=1, states=True)
    system, clock = first.states[-1]
    old = {name: value for name, value in system.items() if name not in ("trust", "out")}
    resumed, grid = Asynchronous(), clocked(one_more, SECONDS)
    resumed.go_on_from(3, old)
    grid.restore(clock)
    assert np.array_equal(
        run(resumed, grid, 5, size=1).final, run(Asynchronous(), clocked(one_more, SECONDS), 5, size=1).final
    )


def test_a_reply_that_is_empty_is_refused_by_both_readers() -> None:
    asked = Message(RecordDict(), FIRST_NODE, "train")
    reply = Message(RecordDict(), reply_to=asked)
    reply.__dict__["_content"] = None  # as of a forged protocol message; Flower's own code makes none
    form = ModelForm(vector(np.zeros(3)))
    with pytest.raises(BadPayload, match="neither content nor an error"):
        read_update(reply, form, np.zeros(3))
    with pytest.raises(BadPayload, match="neither content nor an error"):
        CodedUpdates(TopK(1.0)).read(reply, form, FIRST_NODE, 1)


def test_norms_that_grow_everywhere_are_believed_again() -> None:
    trust = WorkerTrust(Trust(largest_norm_ratio=10), {})
    for node in range(5):
        trust.check(node, np.ones(1))
    for node in range(2):
        with pytest.raises(BadPayload, match="norm is 100, more than 10 times the median of the workers' last ones"):
            trust.check(node, np.full(1, 100.0))
    for node in range(2, 5):  # from here on half of them are as long
        trust.check(node, np.full(1, 100.0))


def test_two_workers_cannot_outvote_each_other() -> None:
    trust = WorkerTrust(Trust(), {})
    trust.judge(1, Failure(0, "", "norm"), [0])
    assert trust.out(0, 1) is None


def test_the_measure_is_the_median_of_the_last_norms_above_zero() -> None:
    numbers, trust = np.random.default_rng(0), Trust(largest_norm_ratio=2.0)
    workers, last = WorkerTrust(trust, {}), dict[int, float]()
    refused = 0
    for turn in range(400):
        node, norm = int(numbers.integers(9)), float(numbers.choice([0.0, 1.0, 1.0, 2.0, 5.0]) * numbers.integers(1, 3))
        last[node] = norm
        try:
            workers.check(node, np.array([norm]))
            believed = True
        except BadPayload:
            believed = False
            refused += 1
        assert believed == (norm <= trust.longest(last)), turn
        if turn == 200:
            state, workers = workers.state(), WorkerTrust(trust, {})
            workers.restore(state)
    assert 20 < refused < 200
