"""What models are calibrated on, and what is refused before it comes to linear algebra."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from strategies.repurpose import account, calibrate, repurpose
from strategies.repurpose.moments import moments_of
from tests.strategies.repurpose.networks import convolutional, dense, inputs


def layered(weight: float | None = None, bias: float | None = None) -> nn.Module:
    """A dense network, the last weight or bias of its middle layer set."""
    model = dense()
    with torch.no_grad():
        if weight is not None:
            model[2].weight[-1, -1] = weight  # type: ignore[index]
        if bias is not None:
            model[2].bias[-1] = bias  # type: ignore[index]
    return model


@pytest.mark.parametrize(
    ("model", "x", "said"),
    [
        (dense(), torch.zeros(1, 12), r"calibration_inputs of shape \(1, 12\) .*accepted: .* N >= 2"),
        (layered(weight=float("nan")), inputs(dense()), "2: weights that are not finite"),
        (layered(bias=float("inf")), inputs(dense()), "2: weights that are not finite"),
        (dense(), torch.full((4, 12), 3e38), "0: its outputs are not finite"),
    ],
)
def test_what_linear_algebra_would_fail_on_is_refused(model: nn.Module, x: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        repurpose(model, x, 2, 0.1)


@pytest.mark.parametrize("cost", [1e-3, 1e6])
@pytest.mark.parametrize("build", [dense, convolutional])
def test_inputs_that_are_all_alike_need_no_sends_and_keep_the_outputs(build: type, cost: float) -> None:
    x = inputs(build(), rows=1).repeat(60, *[1] * (inputs(build()).dim() - 1))
    plan = repurpose(build(), x, 3, cost)
    assert torch.allclose(plan.run(x), build()(x), atol=1e-4)
    if build is dense:  # maps vary over their positions
        assert account(plan).sends == 0


def test_a_variance_small_beside_the_mean_is_not_lost() -> None:
    network = calibrate(dense(), inputs(dense(), rows=300)).network
    small = 1e-2 * torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    found = moments_of(network, network.layers[1], small + 1000.0, 1e-9)
    exact = torch.cov((small + 1000.0).double().T, correction=0)
    # float32 has steps of 6e-5 at 1000; its squares would have steps of 0.06, six hundred variances
    assert torch.allclose(found.covariance, exact, atol=1e-6)
    assert torch.allclose(found.mean, (small + 1000.0).double().mean(0), atol=1e-6)


def test_linear_algebra_that_fails_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(matrix: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("not positive-definite")

    monkeypatch.setattr(torch.linalg, "cholesky", fail)
    with pytest.raises(ValueError, match=r"^2: the covariance of .* \(not positive-definite\); accepted: "):
        repurpose(dense(), inputs(dense()), 2, 1e-2)
