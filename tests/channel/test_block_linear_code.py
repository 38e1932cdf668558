"""Random linear codes of a model's blocks, and the channel uses that each gets in a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel import (
    AnalogUplink,
    BlockLinearCode,
    BlockPlanner,
    Channel,
    ChannelInversion,
    RandomLinearCode,
    RandomMask,
    TransmitOrder,
    generator,
    key,
)
from channel.codes import Code

torch.set_num_threads(1)

SIZES = [90, 8, 30]
SCALES = [1.0, 9.0, 0.1]
NOISE = 0.3


def signal(seed: int = 0) -> Tensor:
    """Blocks of very different norms."""
    draws = generator(seed, "test/blocks")
    return torch.cat([torch.from_numpy(scale * draws.normal(size=n)) for n, scale in zip(SIZES, SCALES, strict=True)])


def test_one_block_is_a_random_linear_code() -> None:
    x = signal()
    blocked, plain = BlockLinearCode([len(x)], [40]), RandomLinearCode(uses=40)
    symbols = blocked.encode(x, 5)
    torch.testing.assert_close(symbols, plain.encode(x, key(5, "block", 0)))
    torch.testing.assert_close(
        blocked.decode(symbols, len(x), 5), plain.decode(symbols, len(x), key(5, "block", 0)), rtol=1e-12, atol=1e-12
    )


def test_all_uses_bring_all_back() -> None:
    x = signal()
    code = BlockLinearCode(SIZES, SIZES)  # these lengths take no padding, so that nothing is left out
    torch.testing.assert_close(code.decode(code.encode(x, 1), len(x), 1), x, rtol=1e-12, atol=1e-12)


def test_energy_mean_and_error_are_those_in_closed_form_however_uses_are_shared_out() -> None:
    x, draws, trials = signal(), generator(1, "test/noise"), 3000
    for uses in ([20, 8, 4], [10, 2, 20]):
        code = BlockLinearCode(SIZES, uses)
        errors, energies, total = np.zeros(trials), np.zeros(trials), torch.zeros_like(x)
        heard = np.zeros((trials, len(SIZES)))
        for trial in range(trials):
            symbols = code.encode(x, trial)
            energies[trial] = float(symbols.square().sum())
            received = symbols + math.sqrt(NOISE) * torch.from_numpy(draws.normal(size=len(symbols)))
            decoded = code.decode(received, len(x), trial, NOISE)
            heard[trial] = code.energies(received, NOISE)
            total += decoded
            errors[trial] = float((decoded - x).square().sum())
        predicted = code.mean_squared_error(len(x), code.coded_energy(x), 0.0, NOISE)

        def off(values: NDArray[np.float64], expected: float) -> float:
            """In standard errors; 5 are passed once in two million draws, and seeds are fixed."""
            return abs(values.mean() - expected) / (values.std() / math.sqrt(trials) + 1e-12 * abs(expected))

        assert off(errors, predicted) < 5
        assert off(energies, code.expected_energy_ratio(len(x)) * float(x.square().sum())) < 5
        for b, block in enumerate(torch.split(x, SIZES)):
            assert off(heard[:, b], float(block.square().sum())) < 5
        assert float((total / trials - x).square().sum()) < 5 * predicted / trials


def test_the_planned_shares_lose_least() -> None:
    x = signal()
    norms = [float(block.norm()) for block in torch.split(x, SIZES)]
    planner = BlockPlanner(SIZES)
    planner.grant(1, 32)
    planner.observe(1, np.square(norms))
    planned = BlockLinearCode(SIZES, planner.grant(2, 32))
    even = BlockLinearCode(SIZES, BlockPlanner(SIZES).grant(1, 32))
    assert planned.coded_energy(x) < 0.5 * even.coded_energy(x)
    noise = [code.mean_squared_error(128, 0.0, 0.0, NOISE) for code in (planned, even)]
    assert noise[0] == pytest.approx(noise[1], rel=1e-14)  # which shares do not change


def test_uses_are_even_before_anything_is_heard_and_follow_what_is() -> None:
    planner = BlockPlanner([800, 200], memory=0.5)
    assert planner.grant(1, 100) == [80, 20]
    assert planner.grant(1, 100) == [80, 20]
    planner.observe(1, [1.0, 1.0])
    assert planner.grant(2, 90) == [60, 30]  # sqrt(800) to sqrt(200) is 2 to 1
    planner.observe(2, [0.0, 3.5])  # averages .25 and .25 + 1.75, so 1 to 8 in energy
    first, second = planner.grant(3, 100)
    assert first / second == pytest.approx(2 / math.sqrt(8), rel=0.03)  # whole uses


def test_a_block_that_noise_hides_keeps_a_tenth_of_what_its_even_share_would_bring() -> None:
    planner = BlockPlanner([500, 500])
    planner.grant(1, 100)
    planner.observe(1, [4.0, -1.0])
    first, second = planner.grant(2, 100)  # the least share of energy, .005, is .07 of the norm
    assert second / first == pytest.approx(math.sqrt(0.005), abs=0.01)


def test_a_restored_planner_grants_the_same() -> None:
    planner, again = BlockPlanner(SIZES), BlockPlanner(SIZES)
    planner.grant(1, 40)
    planner.observe(1, [1.0, 5.0, 0.1])
    again.restore(planner.state())
    assert again.grant(2, 40) == planner.grant(2, 40)
    with pytest.raises(ValueError, match="state holds 3 blocks; accepted: 2"):
        BlockPlanner([1, 2]).restore(planner.state())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: BlockPlanner(SIZES, memory=1.0), "memory is 1.0"),
        (lambda: BlockPlanner([]), "sizes is"),
        (lambda: BlockPlanner(SIZES).grant(1, 2), "uses is 2"),
        (lambda: BlockPlanner(SIZES).observe(1, [1.0, 1.0, 1.0]), "granted last, 0"),
        (lambda: BlockLinearCode(SIZES, [1, 2]), "one number for each of 3 blocks"),
        (lambda: BlockLinearCode(SIZES, [1, 9, 1]), "uses holds 9 for a block of 8 entries"),
        (lambda: BlockLinearCode(SIZES, [1, 1, 1]).encode(torch.ones(5), 0), "size is 5; accepted: 128"),
        (
            lambda: AnalogUplink(RandomMask(ratio=0.5), ChannelInversion(), block_plan=BlockPlanner(SIZES)),
            "accepted: random-linear",
        ),
        (
            lambda: AnalogUplink(
                RandomLinearCode(ratio=0.5, decoder="lmmse"), ChannelInversion(), block_plan=BlockPlanner(SIZES)
            ),
            "decoder='lmmse'",
        ),
    ],
)
def test_what_cannot_be_is_named(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_nan_is_no_energy() -> None:
    planner = BlockPlanner(SIZES)
    planner.grant(1, 40)
    with pytest.raises(ValueError, match="accepted: 3 finite numbers"):
        planner.observe(1, [1.0, np.nan, 1.0])


@dataclass
class Updates:
    """Devices with all their updates at hand."""

    X: Tensor

    def __post_init__(self) -> None:
        count, self.size = self.X.shape
        self.total, self.devices, self.weights = count, np.arange(count), np.full(count, 1 / count)
        self.norms = self.X.norm(dim=1).numpy()

    def updates(self, gains: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(gains) @ self.X

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        raise AssertionError("plain updates are at hand")

    def symbols(self, code: Code, seed: int) -> Tensor:
        raise AssertionError("nobody asks for them")


def test_the_uplink_shares_out_by_what_it_hears_and_its_error_is_the_predicted_one() -> None:
    cohort = Updates(torch.stack([signal() + 0.1 * signal(k) for k in range(4)]))
    planned = AnalogUplink(
        RandomLinearCode(uses=32), ChannelInversion(), Channel(noise_power=0.01), block_plan=BlockPlanner(SIZES)
    )
    plain = AnalogUplink(RandomLinearCode(uses=32), ChannelInversion(), Channel(noise_power=0.01))
    measured: dict[str, list[float]] = {"planned": [], "plain": []}
    predicted, known = [], []
    for exchange in range(1, 401):
        order = planned.order(exchange, 7)
        same = TransmitOrder.from_config(order.to_config()).build_code()
        heard = planned.receive(cohort, exchange, 7)
        assert same.uses(128) == 32
        assert heard.cost.uses == 32
        if exchange > 1:  # the first is even
            measured["planned"].append(heard.record["mse_measured"])
            predicted.append(heard.record["mse_predicted"])
            known.append(heard.noise_variance * 128)
        measured["plain"].append(plain.receive(cohort, exchange, 7).record["mse_measured"])
    ours = np.array(measured["planned"])
    assert abs(ours.mean() - np.mean(predicted)) < 5 * ours.std() / math.sqrt(len(ours))
    # the receiver's own figure is of noisy energies of small blocks: it need not be more than right on average
    assert np.mean(known) == pytest.approx(np.mean(predicted), rel=0.1)
    assert ours.mean() < 0.6 * np.mean(measured["plain"])
