"""Robust strategies: with too few devices they are refused, and with enough they withstand attackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg, Strategy

from clients.attack import Attack, AttackKind
from strategies import OverTheAir
from strategies.krum import Krum, MultiKrum
from strategies.robust_limits import check_robust
from tests import fleet
from tests.packet_exchange import QUIET, digital

ATTACKER = frozenset([2])
ROBUST: dict[str, type[Strategy]] = {
    "krum": Krum, "multikrum": MultiKrum, "fedmedian": FedMedian, "fedtrimmedavg": FedTrimmedAvg,
}  # fmt: skip
PARAMETERS: dict[str, dict[str, Any]] = {
    "krum": {"num_malicious_nodes": 1},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.2},
}


@pytest.mark.parametrize(
    ("name", "parameters", "devices", "says"),
    [
        ("krum", {"num_malicious_nodes": 2}, 6, "num_malicious_nodes = 2: krum needs at least 2 f .* = 7 devices"),
        ("krum", {}, 2, "krum with at least 3 devices"),
        ("multikrum", {"num_malicious_nodes": 4}, 10, "accepted: an integer from 0 to 3, or more devices"),
        ("bulyan", {"num_malicious_nodes": 1}, 6, "bulyan needs at least 4 f .* = 7 devices"),
        ("krum", {"num_malicious_nodes": 0.5}, 10, "num_malicious_nodes = 0.5: accepted: an integer >= 0"),
        ("krum", {"num_malicious_nodes": -1}, 10, "num_malicious_nodes = -1: accepted: an integer >= 0"),
        ("multikrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 9}, 10, "accepted: an integer from 1 to 8"),
        ("multikrum", {"num_nodes_to_select": 0}, 10, "num_nodes_to_select = 0: accepted: an integer >= 1"),
        ("fedtrimmedavg", {"beta": 0.5}, 10, "beta = 0.5: accepted: a number >= 0 and < 0.5"),
        ("fedtrimmedavg", {"beta": 0.1}, 9, r"= 0 values of the 9 devices' are trimmed; accepted: 0, or .* >= 0.111"),
    ],
)
def test_a_strategy_that_gives_no_protection_is_refused(
    name: str, parameters: Mapping[str, Any], devices: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        check_robust(name, parameters, devices)


@pytest.mark.parametrize(
    ("name", "parameters", "devices"),
    [
        ("krum", {"num_malicious_nodes": 2}, 7),
        ("bulyan", {"num_malicious_nodes": 1}, 7),
        ("multikrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 8}, 10),
        ("fedtrimmedavg", {"beta": 0.1}, 10),
        ("fedtrimmedavg", {"beta": 0}, 2),
        ("fedavg", {"num_malicious_nodes": -5}, 1),
    ],
)
def test_the_least_number_of_devices_is_enough(name: str, parameters: Mapping[str, Any], devices: int) -> None:
    check_robust(name, parameters, devices)


def model(strategy: Strategy, kind: AttackKind | None, factor: float) -> np.ndarray[Any, Any]:
    work = fleet.workplace(6)
    if kind is not None:
        work.attack = Attack(kind, ATTACKER, factor)
    run = fleet.run(OverTheAir(strategy, digital()), fleet.local_grid(work), work, rounds=2)
    return fleet.flat(run.arrays)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("kind", ["sign-flip", "scaled-update"])
def test_a_robust_strategy_is_moved_no_further_by_a_hundred_times_the_attack(name: str, kind: AttackKind) -> None:
    """In packets, and through all the platform: the mean follows the attacker, these do not."""
    clean = model(FedAvg(**QUIET), None, 1.0)
    start = fleet.flat(fleet.initial(fleet.workplace(6)))
    step = np.linalg.norm(clean - start)
    small, large = (
        np.linalg.norm(model(ROBUST[name](**QUIET, **PARAMETERS[name]), kind, factor) - clean)
        for factor in (100.0, 10_000.0)
    )
    means = [np.linalg.norm(model(FedAvg(**QUIET), kind, factor) - clean) for factor in (100.0, 10_000.0)]
    assert large < 1.5 * step, "within what honest devices differ by"
    assert large == pytest.approx(small, rel=0.3)
    assert means[0] > 5 * step
    assert means[1] > 20 * means[0]
