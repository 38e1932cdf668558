"""A strategy goes on after a round of another run; nodes are waited for, but not for ever."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAdam, FedAvg, Strategy

from channel import AnalogUplink, IdealUplink, MinimumMSE, RandomLinearCode
from channel.memory import CannotBeKept, restore_into
from channel.power import AveragePower, FullPower
from clients.app import Workplace
from clients.models import build
from clients.parameters import model_arrays
from clients.training import Trainer, Training
from strategies import OverTheAir
from strategies.dingo import Dingo
from strategies.giant import Giant
from strategies.node_wait import NodesMissing, NodeWait
from strategies.strategy_state import restore_strategy, strategy_state
from tests.fleet import MessageGrid, digits, flat, initial, local_grid, message_grid, record, workplace

DEVICES = 4


def fedadam() -> FedAdam:
    return FedAdam(min_available_nodes=DEVICES, min_train_nodes=DEVICES, fraction_evaluate=0.0)


def analog() -> AnalogUplink:
    return AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE(), energy_per_round=100.0)


def convex_workplace() -> Workplace:
    """Softmax regression, on which all Hessians are positive definite."""
    data = digits(DEVICES)
    model = build("softmax", data.input_shape, data.num_classes, dtype=torch.float64)
    return Workplace(Trainer(model), data, Training(learning_rate=0.0, full_batch=True, l2=0.1), seed=0)


def in_two_parts(
    make: Any, uplink: Any, grids: Iterable[Grid], start: ArrayRecord | None = None, rounds: int = 3, cut: int = 1
) -> tuple[Any, Any]:
    """The last model of a run on the first grid, and of one on the second that goes on after `cut` rounds of it."""
    first, second = grids
    whole, kept = OverTheAir(make(), uplink()), {}

    def keep(round: int, arrays: ArrayRecord) -> None:
        if round == cut:
            kept.update(copy.deepcopy({"model": arrays.to_numpy_ndarrays(), "state": whole.state()}))
            kept["names"] = list(arrays)

    result = whole.start(first, start or initial(workplace()), num_rounds=rounds, evaluate_fn=keep)
    rest = OverTheAir(make(), uplink())
    rest.go_on_from(cut, kept["state"])
    model = record(dict(zip(kept["names"], kept["model"], strict=True)))
    evaluated: list[int] = []
    ended = rest.start(second, model, num_rounds=rounds, evaluate_fn=lambda n, _: evaluated.append(n))
    assert evaluated == list(range(cut + 1, rounds + 1))
    return flat(result.arrays), flat(ended.arrays)


@pytest.mark.parametrize("grids", [(local_grid, local_grid), (message_grid, message_grid), (local_grid, message_grid)])
def test_devices_without_a_memory_go_on_alike_on_every_grid(grids: Any) -> None:
    whole, rest = in_two_parts(fedadam, analog, [grid(workplace()) for grid in grids])
    # In place the update is coded after it was superposed, by message before: equal to rounding.
    tolerance = 0.0 if grids[0] is grids[1] else 1e-9
    np.testing.assert_allclose(rest, whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [Dingo, Giant])
def test_devices_that_lost_what_they_kept_are_sent_the_model_again(make: Any) -> None:
    works = [convex_workplace() for _ in range(2)]
    start = record(model_arrays(works[0].trainer.model))
    whole, rest = in_two_parts(make, IdealUplink, [message_grid(work) for work in works], start)
    # The same iterates: gradients along a line and at its end differ in rounding, which the solves' tolerance of 1e-4
    # does not feel on so well conditioned a problem.
    np.testing.assert_allclose(rest, whole, rtol=1e-9, atol=1e-9)


def test_a_wrapped_strategy_is_kept_with_the_one_inside() -> None:
    def wrapped() -> Strategy:
        return DifferentialPrivacyClientSideFixedClipping(fedadam(), 0.1, 1.0, DEVICES)

    there, here = wrapped(), wrapped()
    there.strategy.m_t = {"w": np.arange(3.0)}  # type: ignore[attr-defined]
    there.strategy.current_arrays = record({"w": np.ones(3)})  # type: ignore[attr-defined]
    restore_strategy(here, strategy_state(there))
    inner = here.strategy  # type: ignore[attr-defined]
    assert inner.m_t["w"].tolist() == [0.0, 1.0, 2.0]
    assert flat(inner.current_arrays).tolist() == [1.0, 1.0, 1.0]


def test_a_strategy_with_rounds_of_its_own_cannot_be_kept() -> None:
    class Own(FedAvg):
        def start(self, *_: Any, **__: Any) -> Any:
            return whole.state()

    whole = OverTheAir(Own(), IdealUplink())
    with pytest.raises(CannotBeKept, match="Own: makes its rounds itself"):
        whole.start(local_grid(workplace()), initial(workplace()))
    with pytest.raises(RuntimeError, match="no run has begun"):
        OverTheAir(FedAvg(), IdealUplink()).state()


def test_a_memory_is_not_given_to_a_part_that_has_none() -> None:
    with pytest.raises(ValueError, match="FullPower: has no memory, one was kept"):
        restore_into(FullPower(), AveragePower().state())
    with pytest.raises(ValueError, match="AveragePower: has a memory, none was kept"):
        restore_into(AveragePower(), None)


class Missing(MessageGrid):
    """A grid on which the devices in `missing` are not connected, until it was asked so many times."""

    def __init__(self, missing: Mapping[int, float]) -> None:
        super().__init__(local_grid(workplace()))
        self.missing = missing
        self.asked = 0

    def get_node_ids(self) -> Iterable[int]:
        self.asked += 1
        nodes = list(super().get_node_ids())
        return [node for device, node in enumerate(nodes) if self.missing.get(device, 0) < self.asked]


@pytest.mark.parametrize("make", [fedadam, Dingo])
def test_devices_that_stay_away_end_the_run_which_names_them(make: Any) -> None:
    strategy = OverTheAir(make(), IdealUplink(), devices=DEVICES, nodes_timeout=0.0)
    with pytest.raises(NodesMissing, match=r"2 of 4 devices are .*engine.nodes_timeout_s.*missing: 1, 3"):
        strategy.start(Missing({1: np.inf, 3: np.inf}), initial(workplace()), num_rounds=1)


@pytest.mark.parametrize("make", [fedadam, Dingo])
def test_devices_that_come_late_are_waited_for(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda _: None)
    devices: list[list[int]] = []
    strategy = OverTheAir(
        make(),
        IdealUplink(),
        devices=DEVICES,
        on_exchange=lambda told: devices.append(told["devices"]) if "devices" in told else None,
    )
    strategy.start(Missing({1: 4, 3: 5}), initial(workplace()), num_rounds=1)
    assert devices[0] == [0, 1, 2, 3]


def test_nobody_is_waited_for_where_nobody_says_how_many_there_are() -> None:
    wait = NodeWait()
    wait.look(0, set())
    with wait.needs(2, 0.0), pytest.raises(NodesMissing, match=r"0 of 2 devices.*missing: 0, 1"):
        wait.look(0, set())
    with wait.needs(100, 0.0), pytest.raises(NodesMissing, match=r"missing: 0, .*, 19, \.\.\."):
        wait.look(0, set())
    wait.look(0, set())


def test_a_waiting_time_that_is_not_over_says_nothing() -> None:
    wait = NodeWait()
    with wait.needs(2, 1000.0):
        wait.look(1, {0})


def test_an_aggregate_of_a_round_that_is_left_out_is_not_asked_for() -> None:
    seen: list[int] = []

    class Noting(FedAvg):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            seen.append(server_round)
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(
            self, server_round: int, replies: Iterable[Message]
        ) -> tuple[ArrayRecord | None, MetricRecord | None]:
            seen.append(-server_round)
            return super().aggregate_train(server_round, replies)

    in_two_parts(lambda: Noting(fraction_evaluate=0.0), analog, [local_grid(workplace()) for _ in range(2)], cut=2)
    assert seen == [1, -1, 2, -2, 3, -3, 3, -3]
