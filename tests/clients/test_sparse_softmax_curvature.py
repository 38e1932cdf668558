"""Sparse Hessian products of softmax regression are those of automatic differentiation, and used where they pay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from clients.data import Split
from clients.models import build
from clients.objective import Objective
from clients.softmax_regression import SoftmaxRegression
from clients.sparse_softmax_curvature import (
    LARGEST_SHARE,
    MOST_CLASSES,
    SparseSoftmaxCurvature,
    is_faster_sparse,
)

needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="dense products are used without MKL")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mostly_zeros(rows: int, features: int, share: float, seed: int = 0) -> Tensor:
    """Normal numbers with at most this share of them left, and the first feature always zero."""
    inputs = draw(rows, features, seed=seed)
    inputs[:, 0] = 0
    places = torch.randperm(inputs.numel(), generator=torch.Generator().manual_seed(seed))
    inputs.view(-1)[places[int(share * inputs.numel()) :]] = 0
    return inputs


def classes_of(rows: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def through_autograd(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy that the objective doesn't recognise."""
    return functional.cross_entropy(outputs, targets)


def curvature_of(bias: bool) -> tuple[SparseSoftmaxCurvature, int]:
    """That of 30 rows of 12 features, and the number of parameters for four classes."""
    return SparseSoftmaxCurvature(mostly_zeros(30, 12, 0.25), None, 12, bias), 4 * (12 + bias)


def some_probabilities() -> Tensor:
    return draw(4, 30, seed=8).softmax(dim=0)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 30),
    features=st.integers(1, 20),
    classes=st.integers(2, 13),
    share=st.sampled_from([0.0, 0.1, 0.25]),
    bias=st.booleans(),
    block_rows=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_products_are_those_of_automatic_differentiation(
    rows: int, features: int, classes: int, share: float, bias: bool, block_rows: int, seed: int
) -> None:
    """Numbers of order one to ten and sums of at most some hundred: 1e-12 is ten thousand roundings.

    The objective is asked, so that features that it leaves out are covered. Where it leaves out so many that the
    others are mostly not zero, it takes dense products.
    """
    data = Split(mostly_zeros(rows, features, share, seed), classes_of(rows, classes, seed))
    model = build("softmax", (features,), classes, bias=bias, dtype=torch.float64)
    written = Objective(model, data, l2=0.1, block_rows=block_rows)
    differentiated = Objective(model, data, l2=0.1, loss=through_autograd)
    w, v = draw(written.size, seed=seed), draw(written.size, seed=seed + 1)
    kept = v.clone()
    torch.testing.assert_close(written.hessian(w)(v), differentiated.hessian(w)(v), rtol=1e-12, atol=1e-12)
    assert torch.equal(v, kept)


@needs_mkl
@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sparse_and_dense_products_agree_to_rounding(dtype: torch.dtype, left_out: bool) -> None:
    inputs = mostly_zeros(60, 50, 0.2).to(dtype)
    inputs[:, 10:20] *= not left_out
    mean = SoftmaxRegression(Split(inputs, classes_of(60, 10)), 10, True, 25)
    assert (mean.used is not None) == left_out
    w, v = draw(510, seed=1).to(dtype), draw(510, seed=2).to(dtype)
    sparse = mean.hessian(w)(v)
    assert mean._sparse is not None
    mean._sparse = None
    # Sums of at most 60 numbers of order one.
    torch.testing.assert_close(sparse, mean.hessian(w)(v), rtol=0, atol=100 * torch.finfo(dtype).eps)


def test_the_same_for_all_classes_has_no_curvature_at_all() -> None:
    """Exactly: only differences between classes are looked at."""
    curvature, size = curvature_of(bias=True)
    shift = torch.cat([draw(12, seed=3).repeat(4), draw(1, seed=4).repeat(4)])
    assert len(shift) == size
    assert not curvature.at(some_probabilities())(shift).any()


def test_products_are_symmetric_positive_and_sum_to_zero_over_classes() -> None:
    curvature, size = curvature_of(bias=False)
    product = curvature.at(some_probabilities())
    for seed in range(5):
        u, v = draw(size, seed=seed), draw(size, seed=seed + 10)
        assert float(v @ product(v)) > 0
        assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=1e-10, abs=1e-12)
        assert product(v).view(4, -1).sum(dim=0).abs().max() < 1e-15


def test_which_class_comes_last_does_not_matter() -> None:
    """It is the origin of the scores, which have none."""
    curvature, size = curvature_of(bias=False)
    p, v, order = some_probabilities(), draw(size, seed=5), torch.tensor([3, 1, 0, 2])
    turned = curvature.at(p[order])(v.view(4, -1)[order].flatten())
    torch.testing.assert_close(turned.view(4, -1), curvature.at(p)(v).view(4, -1)[order], rtol=0, atol=1e-14)


def test_vectors_that_are_not_finite_give_products_that_are_not() -> None:
    """Solvers stop by it. Features that are zero in all rows are left out of this, too."""
    curvature, size = curvature_of(bias=True)
    assert not curvature.at(some_probabilities())(torch.full((size,), torch.inf, dtype=torch.float64)).isfinite().all()


@needs_mkl
def test_sparse_products_are_for_few_classes_and_inputs_that_are_mostly_zeros() -> None:
    few = mostly_zeros(20, 50, LARGEST_SHARE)
    assert is_faster_sparse(few, 2)
    assert is_faster_sparse(few, MOST_CLASSES)
    assert not is_faster_sparse(few, MOST_CLASSES + 1)
    assert not is_faster_sparse(few, 1)
    more = few.clone()
    more.view(-1)[: int(LARGEST_SHARE * more.numel())] = 1.0
    assert not is_faster_sparse(more, 2)


def test_elsewhere_than_on_the_processor_products_are_dense() -> None:
    assert not is_faster_sparse(torch.zeros(3, 4, device="meta"), 2)


@needs_mkl
def test_the_sparse_copies_are_made_with_the_first_operator_only() -> None:
    mean = SoftmaxRegression(Split(mostly_zeros(20, 30, 0.2), classes_of(20, 3)), 3, False, 100)
    w = draw(90, seed=1)
    mean.value_and_gradient(w)
    mean.along(w, w, torch.ones(2, dtype=torch.float64), True)
    assert "_sparse" not in vars(mean)
    mean.hessian(w)
    first = mean._sparse
    assert first is not None
    mean.hessian(w)
    assert mean._sparse is first
