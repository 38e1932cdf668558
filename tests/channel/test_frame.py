"""Random subspaces: a frame and its transpose, the same wherever it is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from channel import RandomLinearCode
from channel.frame import Frame


@given(d=st.integers(2, 60), share=st.floats(0.1, 1.0), seed=st.integers(0, 99))
def test_lifting_is_the_transpose_of_projecting(d: int, share: float, seed: int) -> None:
    frame, rng = Frame(d, max(1, round(share * d)), seed), np.random.default_rng(seed)
    x, z = rng.normal(size=d), rng.normal(size=frame.size)
    assert frame.project(x) @ z == pytest.approx(x @ frame.lift(z), abs=1e-12)
    if RandomLinearCode(uses=frame.size).padded_size(d) == d:
        np.testing.assert_allclose(frame.project(frame.lift(z)), z, atol=1e-12)


def test_a_device_makes_the_frame_of_the_server_from_what_it_is_told() -> None:
    frame, x = Frame(40, 7, 2**62 + 1), torch.arange(40, dtype=torch.float64)
    told = Frame.from_config({"other": 1.0, **frame.to_config()}, 40)
    assert told == frame
    np.testing.assert_array_equal(told.project(x).numpy(), frame.project(x.numpy()))
    assert Frame.from_config({"other": 1.0}, 40) is None


def test_another_seed_is_another_subspace() -> None:
    x = np.random.default_rng(0).normal(size=40)
    assert not np.allclose(Frame(40, 7, 1).project(x), Frame(40, 7, 2).project(x))
