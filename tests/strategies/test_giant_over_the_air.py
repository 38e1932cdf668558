"""GIANT over the air: the ideal iterates without noise, exact values of f with it, and no codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from channel import AnalogUplink, Channel, ChannelInversion, IdealUplink, RandomLinearCode, Rayleigh, Uncoded, Uplink
from channel.codes import Code
from clients.parameters import model_arrays
from strategies.giant import Giant
from strategies.over_the_air import OverTheAir
from tests.fleet import Training, flat, local_grid, workplace


def air(snr_db: float, code: Code | None = None) -> AnalogUplink:
    """Rayleigh fading at an SNR of each channel use and unit gain."""
    return AnalogUplink(code or Uncoded(), ChannelInversion(), Channel(Rayleigh(), noise_power=10 ** (-snr_db / 10)))


def run(uplink: Uplink, iterations: int, **given: Any) -> tuple[NDArray[Any], list[dict[str, Any]], OverTheAir]:
    """Run GIANT on a network that is convex enough once the L2 term is there."""
    work = workplace(3, Training(0.1, full_batch=True, l2=1.0))
    figures: list[dict[str, Any]] = []
    giant = Giant(inner_iterations=5, negative_curvature="truncate", on_iteration=figures.append, **given)
    strategy = OverTheAir(giant, uplink)
    start = ArrayRecord({name: Array(a) for name, a in model_arrays(work.trainer.model).items()})
    result = strategy.start(local_grid(work), start, num_rounds=iterations)
    return flat(result.arrays), figures, strategy


def test_without_noise_the_iterates_are_those_of_an_ideal_link() -> None:
    ideal, _, _ = run(IdealUplink(), 4)
    quiet, _, _ = run(air(snr_db=200.0), 4)
    np.testing.assert_allclose(quiet, ideal, rtol=1e-7, atol=1e-9)


def test_a_step_is_taken_by_exact_values_of_the_objective() -> None:
    # Scalars take the control channel. The slope is that of the received gradient; with 30 dB its sign is certain.
    _, figures, _ = run(air(snr_db=30.0), 6)
    objectives = [f["objective"] for f in figures]
    assert all(f["step_passed"] for f in figures)
    assert objectives == sorted(objectives, reverse=True)


def test_an_iteration_takes_two_vectors_of_the_air() -> None:
    _, figures, strategy = run(air(snr_db=10.0), 5)
    assert strategy.air is not None
    size = len(run(IdealUplink(), 0)[0])
    assert strategy.air.ledger.uses == 2 * 5 * size
    assert figures[-1]["vectors_up"] == 2 * 5


def test_each_exchange_may_not_be_coded_on_its_own() -> None:
    with pytest.raises(ValueError, match=r"uplink\.code = 'random-linear'.*accepted: \"uncoded\"$"):
        run(air(10.0, RandomLinearCode(ratio=0.5)), 1)
