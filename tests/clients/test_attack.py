"""Clipped updates, and devices that send something else; the same on every engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from channel import AnalogUplink, Channel, IdealUplink, MinimumMSE, RandomLinearCode, Rayleigh, Uplink
from channel.uplinks.norm_bound import NormBound
from clients.app import Workplace
from clients.attack import Attack, AttackKind, drawn_attackers
from clients.clipping import clip_to_norm
from clients.data import Split
from strategies import OverTheAir
from tests import fleet

KINDS: list[AttackKind] = ["sign-flip", "scaled-update", "gaussian", "label-flip"]
VILLAINS = frozenset([1, 3])


def sent(work: Workplace, device: int, round: int = 1) -> Tensor:
    """What a device's update is, as every engine takes it."""
    received = torch.from_numpy(fleet.flat(fleet.initial(work)))
    state, _, _ = work.train(received, device, {"server-round": round})
    return state - received


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_clipping_keeps_the_direction_and_bounds_the_norm(entries: list[float], limit: float) -> None:
    update = torch.tensor(entries, dtype=torch.float64)
    clipped = clip_to_norm(update, limit)
    assert float(clipped.norm()) <= limit * (1 + 1e-12)
    if float(update.norm()) <= limit:
        assert clipped is update
    else:
        torch.testing.assert_close(clipped * (update.norm() / limit), update, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=r"limit is .*accepted: a finite number > 0"):
        clip_to_norm(torch.ones(2), limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_device_clips_what_it_sends(dtype: torch.dtype) -> None:
    work = fleet.workplace(dtype=dtype)
    honest = sent(work, 0)
    limit = float(honest.norm()) / 3
    work.training = replace(work.training, clip_norm=limit)
    clipped = sent(work, 0)
    # The state is received + update in the model's type, rounded once.
    close = {"rtol": 0.0, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.0, "atol": 1e-15}
    torch.testing.assert_close(clipped, honest / 3, **close)
    work.training = replace(work.training, clip_norm=4 * limit)
    assert torch.equal(sent(work, 0), honest)


@pytest.mark.parametrize("kind", KINDS)
def test_only_attackers_send_something_else(kind: AttackKind) -> None:
    work = fleet.workplace()
    honest = [sent(work, device) for device in range(4)]
    work.attack = Attack(kind, VILLAINS, factor=2.0)
    for device, update in enumerate(honest):
        assert torch.equal(sent(work, device), update) == (device not in VILLAINS)


def test_attacks_are_what_they_are_called() -> None:
    update = torch.tensor([3.0, -4.0], dtype=torch.float64)
    made: dict[str, Tensor] = {kind: Attack(kind, VILLAINS, 2.0).update(update, 1, round=7) for kind in KINDS}
    assert made["sign-flip"].tolist() == [-6.0, 8.0]
    assert made["scaled-update"].tolist() == [6.0, -8.0]
    assert made["label-flip"].tolist() == [6.0, -8.0]
    assert float(made["gaussian"].norm()) == pytest.approx(10.0)


def test_label_flips_are_of_attackers_only_and_undone_by_another() -> None:
    attack = Attack("label-flip", VILLAINS)
    split = Split(torch.zeros(3, 1), torch.tensor([0, 4, 9]))
    assert attack.data(split, 0, 10) is split
    flipped = attack.data(split, 1, 10)
    assert flipped.targets.tolist() == [9, 5, 0]
    assert attack.data(flipped, 1, 10).targets.tolist() == [0, 4, 9]


def test_noise_is_new_in_each_round_and_device_and_the_same_when_repeated() -> None:
    update = torch.ones(50, dtype=torch.float64)
    attack = Attack("gaussian", VILLAINS, seed=3)
    draws = [attack.update(update, device, round) for device in (1, 3) for round in (1, 2)]
    assert torch.equal(attack.update(update, 1, 1), draws[0])
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            # Independent directions in 50 dimensions: a cosine of standard deviation .14.
            assert abs(float(one @ other) / 50) < 0.6


def test_attackers_do_not_clip() -> None:
    work = fleet.workplace()
    norm = float(sent(work, 1).norm())
    work.training = replace(work.training, clip_norm=norm / 2)
    work.attack = Attack("sign-flip", VILLAINS, factor=10.0)
    assert float(sent(work, 1).norm()) == pytest.approx(5 * norm)


UPLINKS: dict[str, Uplink] = {
    "ideal": IdealUplink(),
    "random-linear": AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE(), Channel(Rayleigh(), noise_power=0.01)),
    "bounded": AnalogUplink(
        RandomLinearCode(ratio=0.5), MinimumMSE(), Channel(Rayleigh(), noise_power=0.01),
        norm_bound=NormBound(0.05, known=True), defiant=VILLAINS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UPLINKS)
@pytest.mark.parametrize("kind", KINDS)
def test_attackers_are_the_same_on_workers_and_by_messages(name: str, kind: AttackKind) -> None:
    work = fleet.workplace(5)
    work.training = replace(work.training, clip_norm=0.05)
    work.attack = Attack(kind, VILLAINS, factor=3.0)
    models: list[Any] = []
    for grid in (fleet.local_grid(work), fleet.local_grid(work, workers=2), fleet.message_grid(work)):
        strategy = OverTheAir(FedAvg(fraction_evaluate=0.0), UPLINKS[name])
        models.append(fleet.flat(fleet.run(strategy, grid, work, rounds=2).arrays))
    assert np.array_equal(models[1], models[0])
    # Added up before coding or after it: rounding of float64 sums.
    np.testing.assert_allclose(models[2], models[0], rtol=0, atol=1e-12)


def test_an_update_that_overflows_is_a_failure_and_touches_no_sum() -> None:
    work = fleet.workplace(dtype=torch.float32)
    work.attack = Attack("scaled-update", frozenset([1]), factor=1e39)
    records: list[dict[str, Any]] = []
    strategy = OverTheAir(FedAvg(fraction_evaluate=0.0), IdealUplink(), on_exchange=records.append)
    model = fleet.flat(fleet.run(strategy, fleet.local_grid(work), work, rounds=1).arrays)
    assert np.isfinite(model).all()
    assert records[0]["devices"] == [0, 2, 3]
    assert [failure["device"] for failure in records[0]["failures"]] == [1]


def test_attackers_are_drawn_by_the_seed() -> None:
    assert drawn_attackers(0, 10, 0) == frozenset()
    assert drawn_attackers(10, 10, 0) == frozenset(range(10))
    drawn = [drawn_attackers(3, 20, seed) for seed in range(5)]
    assert drawn == [drawn_attackers(3, 20, seed) for seed in range(5)]
    assert len(set(drawn)) > 1
    assert all(len(devices) == 3 for devices in drawn)
    with pytest.raises(ValueError, match="count is 11; accepted: 0 to 10"):
        drawn_attackers(11, 10, 0)


def test_unknown_attacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kind is 'bribe'; accepted: sign-flip, scaled-update"):
        Attack("bribe", VILLAINS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="factor is 0; accepted: a finite number > 0"):
        Attack("sign-flip", VILLAINS, 0)
