"""Systems that are the same in the limit give the same model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from clients.app import Workplace
from fedmac.clock.clocked_grid import ClockedGrid
from fedmac.clock.fleet import Fleet
from fedmac.clock.network import Network
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.fedbuff import FedBuff
from strategies.systems.server_system import ServerSystem
from strategies.systems.stale_synchronous import StaleSynchronous
from strategies.systems.synchronous import Synchronous
from tests import fleet
from tests.fedmac.clock.simulated import INSTANT, ONE_FLOP_A_SECOND, clocked
from tests.strategies.systems.least_squares import central, run, sgd_step, uneven

# Sums of a few numbers in another order: some units in the last place, a thousand times over.
ROUNDING = {"rtol": 1e-12, "atol": 1e-14}


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_synchronous_is_sgd_on_the_batches_of_all_workers_together(workers: int) -> None:
    told = run(Synchronous(), clocked(sgd_step, uneven(workers), jitter=0.3), 20)
    np.testing.assert_allclose(told.final, central(workers, 20), **ROUNDING)
    assert all(figures["accepted"] == workers for figures in told.figures)


@pytest.mark.parametrize(
    "system",
    [Asynchronous(), FedBuff(buffer=1), StaleSynchronous(staleness_bound=3), StaleSynchronous(), Synchronous()],
)
def test_every_system_with_one_worker_is_sgd(system: ServerSystem) -> None:
    told = run(system, clocked(sgd_step, [1.0], jitter=0.3), 20)
    np.testing.assert_allclose(told.final, central(1, 20), **ROUNDING)


def test_stale_synchronous_without_staleness_is_synchronous_at_the_same_times() -> None:
    grids = [clocked(sgd_step, uneven(6), jitter=0.3, seed=4) for _ in range(2)]
    bound = run(StaleSynchronous(staleness_bound=0), grids[0], 15)
    sync = run(Synchronous(), grids[1], 15)
    np.testing.assert_allclose(bound.models, sync.models, **ROUNDING)
    assert bound.times == sync.times


def test_stale_synchronous_without_a_bound_is_asynchronous_at_an_equal_rate() -> None:
    grids = [clocked(sgd_step, uneven(6), jitter=0.3, seed=4) for _ in range(2)]
    free = run(StaleSynchronous(staleness_bound=math.inf), grids[0], 15)
    asynchronous = run(Asynchronous(server_learning_rate=1 / 6), grids[1], 15)
    assert np.array_equal(free.models, asynchronous.models)
    assert free.times == asynchronous.times
    assert [f["staleness"] for f in free.figures] == [f["staleness"] for f in asynchronous.figures]


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_stale_synchronous_workers_never_run_further_ahead_than_the_bound(bound: int) -> None:
    grid = clocked(sgd_step, [1.0, 1.0, 10.0])
    told = run(StaleSynchronous(staleness_bound=bound, devices=1), grid, 60)  # a round for each arrival
    # Who may begin at `bound` ahead is `bound` + 1 ahead when it is done.
    assert max(figures["clock_spread"] for figures in told.figures) == bound + 1


def test_a_looser_bound_is_never_slower() -> None:
    def time_of(bound: float) -> float:
        grid = clocked(sgd_step, [1.0] * 4, straggler_probability=0.2, straggler_slowdown=6.0, seed=2)
        return run(StaleSynchronous(staleness_bound=bound), grid, 40).times[-1]

    times = [time_of(bound) for bound in (0, 1, 4, math.inf)]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_a_buffer_of_one_is_asynchronous() -> None:
    grids = [clocked(sgd_step, uneven(5), jitter=0.2) for _ in range(2)]
    buffered = run(FedBuff(buffer=1, staleness_exponent=0.5), grids[0], 12)
    asynchronous = run(Asynchronous(staleness_exponent=0.5), grids[1], 12)
    np.testing.assert_allclose(buffered.models, asynchronous.models, **ROUNDING)


def test_the_first_move_of_a_buffer_for_all_workers_is_the_synchronous_one() -> None:
    told = run(FedBuff(buffer=4), clocked(sgd_step, [1.0] * 4), 1)
    # All arrive together, and each but the last gets the model as it was: after the first move they are one behind.
    np.testing.assert_allclose(told.models[1], central(4, 1), **ROUNDING)


@pytest.mark.parametrize("system", [Synchronous, Asynchronous, StaleSynchronous, FedBuff])
def test_two_runs_with_one_seed_are_equal_to_the_bit_and_another_seed_is_not(system: type[ServerSystem]) -> None:
    def once(seed: int) -> tuple[list[bytes], list[float]]:
        grid = clocked(sgd_step, uneven(5), jitter=0.4, straggler_probability=0.1, straggler_slowdown=9.0, seed=seed)
        told = run(system(), grid, 10)
        return [model.tobytes() for model in told.models], told.times

    assert once(1) == once(1)
    assert once(1)[1] != once(2)[1]


def test_models_of_single_precision_stay_so() -> None:
    x = np.zeros(3, np.float32)
    for system in (Synchronous(), Asynchronous(staleness_exponent=0.5), StaleSynchronous(), FedBuff(buffer=2)):
        told = run(system, clocked(lambda _d, x, _s: x + np.float32(1), [1.0, 2.0]), 3, x=x)
        assert told.final.dtype == np.float32


@pytest.mark.parametrize("system", [Synchronous(), Asynchronous(), StaleSynchronous(), FedBuff(buffer=1)])
def test_on_the_local_engine_one_worker_trains_as_its_device_would_alone(system: ServerSystem) -> None:
    work = fleet.workplace(devices=1)
    model = torch.from_numpy(fleet.flat(fleet.initial(work)))
    for step in range(1, 4):
        state, _, _ = work.train(model, 0, {"server-round": step})
        model = state.clone()
    grid = local_clock(work, [1.0])
    result = system.start(grid, fleet.initial(work), num_rounds=3)
    # x + (trained - x) rounds once more than the device alone does.
    np.testing.assert_allclose(fleet.flat(result.arrays), model.numpy(), rtol=1e-12, atol=1e-13)
    assert grid.now == 3.0


def test_on_the_local_engine_synchronous_is_the_mean_of_what_devices_train() -> None:
    work = fleet.workplace(devices=3)
    start = torch.from_numpy(fleet.flat(fleet.initial(work)))
    trained = [work.train(start, device, {"server-round": 1})[0].clone() for device in range(3)]
    result = Synchronous().start(local_clock(work, [1.0, 2.0, 3.0]), fleet.initial(work), num_rounds=1)
    expected = torch.stack(trained).mean(dim=0).numpy()
    np.testing.assert_allclose(fleet.flat(result.arrays), expected, rtol=1e-12, atol=1e-13)


def local_clock(work: Workplace, seconds: Sequence[float]) -> ClockedGrid:
    """The local engine's devices on a clock, with steps of so many seconds."""
    speeds = Fleet([ONE_FLOP_A_SECOND], len(seconds), 0)
    network = Network([INSTANT] * len(seconds))
    return ClockedGrid(fleet.local_grid(work), speeds, network, lambda device: seconds[device])
