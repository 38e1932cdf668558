"""The path over the cost, its front, and the pick; accounts, and links over the air."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from channel.links.link import ShannonLink
from channel.propagation import LogDistance, thermal_noise_power
from strategies.repurpose import (
    Links,
    Plan,
    Worker,
    account,
    accuracy_on,
    calibrate,
    device_to_device,
    pareto,
    path,
    pick,
    repurpose,
    search,
)
from strategies.repurpose.accounts import transfer_time
from strategies.repurpose.calibration import Calibration
from strategies.repurpose.front import OutOfReach, Point
from tests.strategies.repurpose.networks import convolutional, dense, inputs

SIZES = (12, 24, 16, 6)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(dense(SIZES), inputs(dense(), rows=300))


@pytest.fixture(scope="module")
def points(calibration: Calibration) -> list[Point]:
    return path(calibration, 4, agreement(calibration), points=7)


def agreement(calibration: Calibration) -> Callable[[Plan], float]:
    """How often a plan answers as the model."""
    return accuracy_on(calibration.inputs, dense(SIZES)(calibration.inputs).argmax(1))


def test_the_path_goes_from_chatty_to_silent(points: list[Point]) -> None:
    sends = [point.accounts.sends for point in points]
    assert sends[0] > 0.5 * (24 + 16) * 3
    assert sends[-1] == 0
    assert points[0].accuracy > 0.98
    assert points[0].latency > points[-1].latency


def test_the_front_rises_with_sends_and_nothing_beats_it(points: list[Point]) -> None:
    front = pareto(points)
    sends, judged = [p.accounts.sends for p in front], [p.accuracy for p in front]
    assert sends == sorted(sends, reverse=True)
    for point in points:
        assert point in front or any(
            q.accounts.sends <= point.accounts.sends and q.accuracy >= point.accuracy for q in front
        )
    assert max(judged) == max(p.accuracy for p in points)


def test_the_pick_keeps_to_what_is_asked(points: list[Point]) -> None:
    few = pick(points, 1.0, max_drop=0.05)
    assert few.accuracy >= 0.95
    assert all(p.accounts.sends >= few.accounts.sends for p in points if p.accuracy >= 0.95)
    good = pick(points, 1.0, max_sends=40)
    assert good.accounts.sends <= 40
    assert all(p.accuracy <= good.accuracy for p in points if p.accounts.sends <= 40)


def test_what_is_out_of_reach_is_said(points: list[Point]) -> None:
    with pytest.raises(OutOfReach, match=r"max_drop = -0\.1: the smallest drop of the path is"):
        pick(points, 1.0, max_drop=-0.1)
    with pytest.raises(OutOfReach, match="max_sends = 3: the fewest of the path are"):
        pick(points[:2], 1.0, max_sends=3)
    with pytest.raises(ValueError, match="accepted: one of them"):
        pick(points, 1.0)


def test_a_search_refines_the_pick(calibration: Calibration, points: list[Point]) -> None:
    judge = agreement(calibration)
    found, best = search(calibration, 4, judge, max_drop=0.05, points=7, refinements=2)
    assert len(found) > len(points)
    assert best.accounts.sends <= pick(points, 1.0, max_drop=0.05).accounts.sends
    costs = [point.communication_cost for point in found]
    assert costs == sorted(costs)


def test_a_path_begins_with_the_model_itself(points: list[Point]) -> None:
    assert points[0].communication_cost == 0
    assert points[0].accuracy == 1.0
    assert points[0].accounts.sends == (24 + 16) * 3


def test_no_drop_at_all_can_be_asked_for(calibration: Calibration) -> None:
    def judge(plan: Plan) -> float:
        """Only the model itself, which has all its edges, is accurate."""
        return float(all(layer.kept.all() for layer in plan.layers.values()))

    found, best = search(calibration, 4, judge, max_drop=0.0, points=2, refinements=1)
    assert best.communication_cost == 0
    costs = [point.communication_cost for point in found]
    # between 0 and another cost there is no geometric mean: a tenth
    assert costs[1] == pytest.approx(costs[2] / 10)


def plan_of(cost: float = 0.0) -> Plan:
    return repurpose(convolutional(), inputs(convolutional()), 3, cost)


def test_all_multiply_adds_are_somebodys() -> None:
    counts = account(plan_of())
    # 8 x 8 positions of 6 x 9, 4 x 4 of 8 x 6 x 9, then 12 x 32 and 5 x 12
    assert counts.multiply_adds.sum() == 64 * 54 + 16 * 432 + 384 + 60


def test_feature_maps_are_sent_whole() -> None:
    layers = {layer.name: layer for layer in account(plan_of()).layers}
    # 6 maps of 4 x 4 float32 after pooling, each to two others
    assert layers["5"].sends == 12
    assert layers["5"].bytes_between.sum() == 12 * 16 * 4


def test_latency_is_that_of_the_slowest_worker_and_the_transfers() -> None:
    counts, team = account(plan_of()), [Worker(speed=1e6), Worker(speed=1e6), Worker(speed=2e3)]
    fast = counts.latency(team, Links.equal(3, 1e15))
    assert fast == pytest.approx(sum(int(layer.multiply_adds[2]) for layer in counts.layers) / 2e3, rel=1e-6)
    sent = np.array([[0, 100, 0], [0, 0, 50], [25, 0, 0]])
    assert transfer_time(sent, Links.equal(3, 8.0, 1.0, shared=True)) == pytest.approx(100 + 50 + 25 + 3)
    # the second receives 100 bytes, which takes longest
    assert transfer_time(sent, Links.equal(3, 8.0, 1.0)) == pytest.approx(100 + 1)


def test_energy_is_that_of_bits_and_multiply_adds() -> None:
    counts = account(plan_of())
    links = Links(np.full((3, 3), 1e6), energy_per_bit=np.full((3, 3), 1e-9))
    team = [Worker(energy_per_multiply_add=1e-12)] * 3
    assert counts.energy(team, links) == pytest.approx(8e-9 * counts.bytes + 1e-12 * counts.multiply_adds.sum())


def test_links_over_the_air_have_the_rate_of_their_distance() -> None:
    places = [[0.0, 0.0], [10.0, 0.0], [0.0, 20.0]]
    links = device_to_device(places, LogDistance(3.0, 40.0), ShannonLink(), power=0.01, bandwidth_hz=1e6)
    snr = 0.01 * 1e-4 * 20.0**-3 / thermal_noise_power(1e6)
    assert links.rate[0, 2] == links.rate[2, 0] == pytest.approx(1e6 * math.log2(1 + snr))
    assert links.rate[0, 1] > links.rate[0, 2] > links.rate[1, 2]
    assert links.energy_per_bit is not None
    assert links.energy_per_bit[0, 2] == pytest.approx(0.01 / links.rate[0, 2])
    assert links.shared


def test_devices_out_of_reach_are_named() -> None:
    with pytest.raises(ValueError, match="devices 0 and 1, 1000000000 m apart, cannot reach each other"):
        device_to_device([[0, 0], [1e9, 0]], LogDistance(4.0, 40.0), ShannonLink(), power=1e-9, bandwidth_hz=1e6)


@pytest.mark.parametrize(("rate", "said"), [(np.ones((2, 3)), "shape"), (np.zeros((2, 2)), "bit/s > 0")])
def test_links_that_cannot_be_are_refused(rate: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Links(rate)


def test_a_judge_counts_right_answers() -> None:
    plan = plan_of()
    x = inputs(convolutional(), rows=50)
    right = plan.run(x).argmax(1)
    wrong = torch.where(torch.arange(50) < 10, (right + 1) % 5, right)
    assert accuracy_on(x, wrong)(plan) == pytest.approx(0.8)
