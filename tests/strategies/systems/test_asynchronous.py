"""Staleness, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.systems.asynchronous import Asynchronous
from strategies.systems.fedbuff import FedBuff
from tests.fedmac.clock.simulated import clocked, one_more, unchanged
from tests.strategies.systems.least_squares import run

TRACE = [1.0, 3.5]
"""Two workers: one sends at 1, 2, 3, 4 ..., the other at 3.5, 7, ..."""


def test_rejection_by_a_hand_made_trace() -> None:
    # Arrivals: A1 A2 A3 B3.5 A4 A5 A6 A7 B7; with s_max = 2 B's first has s = 3 (A moved the model three times) and is
    # rejected, as is its second, sent at 3.5 at version 3: A4 to A7 make 7, so s = 4. (At 7 A comes before B.)
    grid = clocked(one_more, TRACE)
    told = run(Asynchronous(largest_staleness=2), grid, 4, size=1)
    assert [figures["rejected"] for figures in told.figures] == [0, 1, 0, 0]
    told = run(Asynchronous(largest_staleness=2, devices=9), clocked(one_more, TRACE), 1, size=1)
    (figures,) = told.figures
    assert figures["accepted"] == 7
    assert figures["rejected"] == 2
    assert figures["staleness"] == [7, 0, 0, 1, 1]
    assert told.final == 7.0


def test_a_rejected_update_has_cost_its_energy_all_the_same() -> None:
    used = []
    for largest in (0, 100):
        grid = clocked(one_more, TRACE)
        run(Asynchronous(largest_staleness=largest, devices=9), grid, 1, size=1)
        used.append(grid.used())
    assert np.array_equal(used[0].joules, used[1].joules)
    # Seven steps of a second and two of 3.5 s, at 2 W.
    assert used[0].compute_j.tolist() == [14.0, 14.0]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_an_update_counts_by_its_staleness(exponent: float) -> None:
    told = run(Asynchronous(staleness_exponent=exponent, devices=4), clocked(one_more, TRACE), 1, size=1)
    assert told.final == pytest.approx(3 + 4.0**-exponent)


def test_fedbuff_moves_after_every_full_buffer_by_the_weighted_mean() -> None:
    # Arrivals A1 A2 | A3 B3.5 | A4: at 3.5 B's update was sent at version 0 and the model has moved once, at 2.
    system = FedBuff(server_learning_rate=2.0, buffer=2, staleness_exponent=1.0, devices=5)
    told = run(system, clocked(one_more, TRACE), 1, size=1)
    # First buffer: A1 and A2 at version 0, 2 * (1 + 1) / 2 = 2. Second: A3, sent at 2, has s = 0, and B s = 1.
    assert told.final == pytest.approx(2.0 + 2.0 * (1 + 0.5) / 2)
    assert told.figures[0]["buffered"] == 1


def test_workers_get_the_fresh_model_and_go_on() -> None:
    grid = clocked(one_more, [1.0, 1.5])
    run(Asynchronous(devices=5), grid, 1, size=1)
    asked = [(device, float(model[0])) for device, _, model in grid.grid.asked]  # type: ignore[attr-defined]
    # At 1, 1.5, 2, 3, 3: A is sent 0 1 3; B 0 2; computed when they arrive.
    assert asked == [(0, 0.0), (1, 0.0), (0, 1.0), (0, 3.0), (1, 2.0)]


def test_a_null_model_does_not_move() -> None:
    told = run(Asynchronous(), clocked(unchanged, [1.0] * 5), 3)
    assert not told.final.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"largest_staleness": -1}, r"largest_staleness = -1: accepted: an integer >= 0, or infinity"),
        ({"largest_staleness": 1.5}, r"largest_staleness = 1.5: accepted: an integer >= 0, or infinity"),
        ({"staleness_exponent": -0.5}, r"staleness_exponent = -0.5: accepted: a finite number >= 0"),
        ({"server_learning_rate": 0.0}, r"server_learning_rate = 0.0: accepted: a finite number > 0"),
        ({"devices": 0}, r"devices = 0: accepted: an integer >= 1"),
    ],
)
def test_parameters_out_of_range_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Asynchronous(**given)  # type: ignore[arg-type]
    if "devices" not in given:
        with pytest.raises(ValueError, match=message):
            FedBuff(**given)  # type: ignore[arg-type]


def test_a_buffer_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="buffer = 0: accepted: an integer >= 1"):
        FedBuff(buffer=0)
