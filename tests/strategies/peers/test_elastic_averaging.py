"""Elastic averaging: its equations, its fixed point, and what it keeps."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.peers.elastic_averaging import ElasticAveraging
from strategies.peers.peer import Held
from strategies.peers.simulated import run_simulated
from strategies.peers.times import RateMatrix
from tests.strategies.peers.quadratics import CURVATURE, RATE, apart, exact_step, minimum, no_step, noisy_step

PEERS, SIZE = 5, 3


def by_hand(server: bool, every: int, steps: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """The equations, all workers at once."""
    x = apart(PEERS, SIZE)
    centre = x[-1 if server else 0]
    workers = range(PEERS - server)
    b = beta / len(workers)
    for step in range(1, steps + 1):
        old = x
        x = np.stack([noisy_step(k, step, old[k]) for k in range(PEERS)])
        if step % every == 0:
            x = x - b * (old - centre)
            centre = centre + b * sum(old[k] - centre for k in workers)
    return x[:-1] if server else x, centre


@pytest.mark.parametrize("server", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_it_follows_its_equations(server: bool, every: int) -> None:
    run = run_simulated(ElasticAveraging(0.7, every, server), noisy_step, apart(PEERS, SIZE), 10)
    x, centre = by_hand(server, every, 10, 0.7)
    np.testing.assert_allclose(run.models, x, atol=1e-14)  # the same sums in another order
    np.testing.assert_allclose(run.held[-1 if server else 0].centre, centre, atol=1e-14)


@pytest.mark.parametrize("server", [False, True])
def test_its_fixed_point_balances_springs_and_gradients(server: bool) -> None:
    beta = 0.9
    run = run_simulated(ElasticAveraging(beta, server=server), exact_step, apart(PEERS, SIZE), 600)
    workers = range(PEERS - server)
    minima = np.stack([minimum(k, SIZE) for k in workers])
    b, pull = beta / len(workers), RATE * CURVATURE
    # a h (x - m) + b (x - c) = 0 for each, and the springs sum to zero: c is the mean of the minima.
    centre = minima.mean(axis=0)
    # The slowest mode shrinks by about 1 - 0.09 a step: after 600 only rounding is left.
    np.testing.assert_allclose(run.held[-1 if server else 0].centre, centre, atol=1e-12)
    np.testing.assert_allclose(run.models, (pull * minima + b * centre) / (pull + b), atol=1e-12)


def test_springs_alone_keep_the_sum_of_replicas_and_centre() -> None:
    x = apart(PEERS, SIZE)
    run = run_simulated(ElasticAveraging(0.5), no_step, x, 30)
    # Ten roundings a step of numbers of size about 1.
    np.testing.assert_allclose(run.models.sum(axis=0) + run.held[0].centre, x.sum(axis=0) + x[0], atol=1e-13)


def test_with_all_strength_the_centre_becomes_the_mean() -> None:
    x = apart(PEERS, SIZE)
    run = run_simulated(ElasticAveraging(1.0), no_step, x, 1)
    np.testing.assert_allclose(run.held[0].centre, x.mean(axis=0), atol=1e-14)


def test_a_server_has_no_replica_and_takes_no_step() -> None:
    stepped: set[int] = set()

    def step(peer: int, number: int, x: np.ndarray) -> np.ndarray:
        stepped.add(peer)
        return x

    run = run_simulated(ElasticAveraging(server=True), step, apart(PEERS, SIZE), 2)
    assert stepped == {0, 1, 2, 3}
    assert run.held[-1].model is None
    assert run.models.shape == (PEERS - 1, SIZE)


def test_two_runs_are_equal_to_the_bit_whatever_the_time() -> None:
    clock = RateMatrix(np.full((PEERS, PEERS), 1e4), 0.1, lambda peer, step: 1.0 + peer)
    told: list[tuple[int, int, float, Held]] = []
    system = ElasticAveraging()
    first = run_simulated(system, noisy_step, apart(PEERS, SIZE), 8, clock, lambda *note: told.append(note))
    again = run_simulated(system, noisy_step, apart(PEERS, SIZE), 8)
    np.testing.assert_array_equal(first.models, again.models)
    np.testing.assert_array_equal(first.held[0].centre, again.held[0].centre)
    assert sorted(note[:2] for note in told) == [(peer, step) for peer in range(PEERS) for step in range(1, 9)]
    assert [note[2] for note in told] == sorted(note[2] for note in told)


@pytest.mark.parametrize("beta", [0.0, -1.0, 1.5, float("nan"), True])
def test_a_strength_out_of_range_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta = .*: accepted: a number above 0, up to 1"):
        ElasticAveraging(beta)


@pytest.mark.parametrize(("peers", "server"), [(1, False), (2, True)])
def test_one_worker_is_refused_with_a_reason(peers: int, server: bool) -> None:
    with pytest.raises(ValueError, match=rf"peers = {peers}: .* nobody to average with; accepted: an integer >= "):
        run_simulated(ElasticAveraging(server=server), no_step, apart(peers, 2), 1)
