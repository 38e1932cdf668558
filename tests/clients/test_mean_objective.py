"""What devices minimise together is the plain mean, and with equal parts the objective of the pooled rows."""

from __future__ import annotations

import pytest
import torch

from clients.data import Split
from clients.mean_objective import MeanObjective
from clients.models import build
from clients.objective import Objective

FEATURES, CLASSES, L2 = 6, 3, 0.1


def rows(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64)
    return Split(inputs, torch.randint(CLASSES, (count,), generator=generator))


def objective(data: Split) -> Objective:
    return Objective(build("softmax", (FEATURES,), CLASSES, dtype=torch.float64), data, l2=L2)


def point() -> torch.Tensor:
    return torch.randn(CLASSES * (FEATURES + 1), generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_equal_parts_make_the_objective_of_the_pooled_rows() -> None:
    parts = [rows(8, seed) for seed in range(4)]
    pooled = objective(Split(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts])))
    mean, w = MeanObjective([objective(part) for part in parts]), point()
    assert mean.size == pooled.size
    value, gradient = mean.value_and_gradient(w)
    expected, slope = pooled.value_and_gradient(w)
    # Sums of as many terms in another order: rounding alone.
    assert value == pytest.approx(expected, rel=1e-13)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(mean.hessian(w)(slope), pooled.hessian(w)(slope), rtol=1e-12, atol=1e-14)


def test_devices_count_equally_whatever_they_hold() -> None:
    large, small, w = objective(rows(50, 0)), objective(rows(2, 1)), point()
    mean = MeanObjective([large, small])
    assert mean.value_and_gradient(w)[0] == pytest.approx((large.value(w) + small.value(w)) / 2, rel=1e-14)


def test_there_is_no_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match="objectives: none given; accepted: one for each device"):
        MeanObjective([])
