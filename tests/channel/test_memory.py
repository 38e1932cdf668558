"""What a part remembers goes into plain values and back, and it goes on as if nothing had been."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from channel import AnalogUplink, Channel, Cost, Ledger, MinimumMSE, RandomLinearCode, Rayleigh
from channel.links import OuterLoop
from channel.memory import state_of
from channel.power import AveragePower
from channel.uplinks import Experience


def test_a_ledger_goes_on_with_every_entry_and_total() -> None:
    costs = [Cost(3, np.array([0.1, 0.2]), 0.3, 7, 0.5), Cost(0, np.zeros(0), 0.0), Cost(2, np.array([1e-9]), 0.1)]
    whole, rest = Ledger(3), Ledger(1)
    for number, (devices, cost) in enumerate(zip(([2, 0], [], [1]), costs, strict=True)):
        whole.charge(number, devices, cost)
        rest.restore(copy.deepcopy(whole.state()))
        assert rest.totals() == whole.totals()
        assert [_plain(*entry) for entry in rest.exchanges] == [_plain(*entry) for entry in whole.exchanges]
    for ledger in (whole, rest):
        ledger.charge(9, [1, 2], costs[0])
    assert rest.totals() == whole.totals()
    assert rest.energy.tobytes() == whole.energy.tobytes()


def _plain(round: int, cost: Cost) -> tuple[object, ...]:
    return round, cost.uses, cost.energy.tolist(), cost.air_time, cost.bits, cost.compute_time


def test_a_ledger_without_entries_is_restored_too() -> None:
    rest = Ledger(1)
    rest.restore(Ledger(4).state())
    assert (rest.exchanges, len(rest.energy)) == ([], 4)


def test_average_power_goes_on_where_it_stood() -> None:
    states = np.random.default_rng(0).rayleigh(size=(300, 3))
    whole, rest = AveragePower(), AveragePower()
    whole.learn(states, np.ones(3), 0.1, np.full(3, 1 / 3))
    for gains in states[:20]:
        whole.allocate(gains, np.full(3, 1 / 3), 1.0, 0.1)
    rest.restore(whole.state())
    for gains in states[20:40]:
        here, there = (p.allocate(gains, np.full(3, 1 / 3), 1.0, 0.1) for p in (rest, whole))
        assert here.amplitudes.tobytes() == there.amplitudes.tobytes()
        assert here.receive_scale == there.receive_scale
    assert rest.mean_powers.tolist() == whole.mean_powers.tolist()


def test_a_state_does_not_change_with_the_part_it_is_of() -> None:
    power = AveragePower()
    power.learn(np.random.default_rng(0).rayleigh(size=(100, 3)), np.ones(3), 0.1, np.full(3, 1 / 3))
    kept = power.state()
    before = copy.deepcopy(kept)
    power.allocate(np.ones(3), np.full(3, 1 / 3), 1.0, 0.1)
    assert all(np.array_equal(kept[key], before[key]) for key in ("corrections", "spent", "exchanges"))
    assert not np.array_equal(power.state()["spent"], before["spent"])


def test_an_uplink_remembers_what_its_power_control_does() -> None:
    made = [AnalogUplink(RandomLinearCode(ratio=0.5), AveragePower(), Channel(Rayleigh())) for _ in range(2)]
    made[0].power_control.learn(np.ones((5, 2)), np.ones(2), 0.1, np.ones(2))
    made[0]._learnt = (3, 2)
    made[1].restore(made[0].state())
    assert made[1]._learnt == (3, 2)
    assert np.array_equal(made[1].power_control.optimum.multipliers, made[0].power_control.optimum.multipliers)
    forgetful = AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE())
    with pytest.raises(ValueError, match="MinimumMSE: has no memory, one was kept"):
        forgetful.restore(made[0].state())
    assert state_of(MinimumMSE()) is None


def test_experience_with_its_outer_loop_goes_on_where_it_stood() -> None:
    whole, rest = Experience(), Experience()
    whole.outer_loop = OuterLoop(3, 0.2, 0.5, 7.0)
    whole.outer_loop.update([0, 2], [3, 0], [1, 5])
    whole.hear(1, 0.5, 2.0)
    whole.acknowledge(11, [0, 1, 2], {1})
    rest.restore(whole.state())
    for one in (whole, rest):
        one.outer_loop.update([1], [1], [1])  # type: ignore[union-attr]
        one.acknowledge(12, [1], set())
    devices = np.arange(3)
    assert rest.lost_since(devices) == whole.lost_since(devices)
    assert rest.worth(devices).tolist() == whole.worth(devices).tolist()
    assert rest.outer_loop.offsets_db.tolist() == whole.outer_loop.offsets_db.tolist()  # type: ignore[union-attr]
