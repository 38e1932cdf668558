"""EDEN: bits, error and bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from channel.codecs.eden import EDEN, lloyd_max_distortion
from channel.codecs.lloyd_max import lloyd_max
from tests.channel.codecs.trials import UPDATES, gaussian, heavy_tailed, nmse, squared_bias, trials

torch.set_num_threads(1)

# bits, unbiased, bits an entry, NMSE: the reference figures for a Gaussian update of 131,072 entries.
TABLE = [
    (1, True, 1.008, 0.5708),
    (1, False, 1.008, 0.3634),
    (2, True, 2.008, 0.1331),
    (2, False, 2.008, 0.1175),
    (3, True, 3.008, 0.03578),
    (4, True, 4.008, 0.009592),
    (0.5, True, 0.508, 2.142),
    (0.25, True, 0.258, 5.283),
    (0.125, True, 0.133, 11.57),
]


@pytest.mark.parametrize(("bits", "distortion"), [(1, 0.36338), (2, 0.11748), (3, 0.03455), (4, 0.00950)])
def test_lloyd_max_distortion(bits: int, distortion: float) -> None:
    assert lloyd_max_distortion(bits) == pytest.approx(distortion, abs=6e-6)
    levels = lloyd_max(2**bits)
    assert levels == pytest.approx(-levels[::-1])  # symmetric


@pytest.mark.parametrize(("bits", "unbiased", "bits_per_entry", "error"), TABLE)
def test_bits_and_error_are_those_of_the_table(
    bits: float, unbiased: bool, bits_per_entry: float, error: float
) -> None:
    codec = EDEN(bits, unbiased=unbiased)
    # The table rounds to 0.001; header and checksum are another 0.0007.
    assert codec.bits(131_072) / 131_072 == pytest.approx(bits_per_entry, abs=0.0015)
    assert codec.gamma(131_072) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(("bits", "unbiased"), [row[:2] for row in TABLE])
def test_error_is_that_of_the_closed_form(update: str, bits: float, unbiased: bool) -> None:
    codec = EDEN(bits, unbiased=unbiased)
    x = UPDATES[update](2**15)
    result = trials(codec, x, seeds=30)
    assert result.standard_error < 0.01 * result.nmse
    assert result.nmse == pytest.approx(codec.expected_nmse(x), rel=0.03)
    assert result.bits == codec.bits(len(x))


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("bits", [0.5, 1, 3])
@pytest.mark.parametrize("size", [530, 700])
def test_error_of_a_bucket_that_is_filled_up(size: int, bits: float, unbiased: bool) -> None:
    # Entries side by side would keep twice their share of the error at a size just over half of the bucket.
    codec = EDEN(bits, unbiased=unbiased)
    x = gaussian(size)  # of 1024
    result = trials(codec, x, seeds=150)
    assert result.standard_error < 0.01 * result.nmse
    assert result.nmse == pytest.approx(codec.expected_nmse(x), rel=0.03)
    assert result.nmse < 0.9 * codec.gamma(1024)


def test_filling_does_not_reach_the_update_before_it() -> None:
    codec = EDEN(2, bucket=512)
    small, large = gaussian(512), 1e4 * gaussian(5)
    alone = codec.decode(codec.encode(torch.cat([small, small]), seed=4), seed=4)[:512]
    beside = codec.decode(codec.encode(torch.cat([small, large]), seed=4), seed=4)
    # Another power of two divides the update before it is rotated: float32 rounding.
    torch.testing.assert_close(beside[:512], alone, rtol=1e-3, atol=1e-3)
    assert nmse(beside[512:], large) < 1


@pytest.mark.parametrize("bits", [0.25, 1, 2, 4])
def test_error_is_orthogonal_to_the_update_with_the_unbiased_scale(bits: float) -> None:
    x = heavy_tailed(8192)
    codec = EDEN(bits)
    decoded = codec.decode(codec.encode(x, seed=2), seed=2)
    assert float(decoded.double() @ x.double() / x.double().square().sum()) == pytest.approx(1, abs=1e-5)


def test_one_transform_is_nearly_unbiased_and_two_are() -> None:
    x = torch.from_numpy(np.random.default_rng(8).standard_t(2, 512)).float()
    once, floor = squared_bias(EDEN(1, bucket=512), x, copies=64, seeds=60)
    twice, floor_of_two = squared_bias(EDEN(1, bucket=512, rotations=2), x, copies=64, seeds=60)
    assert 10 * floor < once < 0.003
    assert abs(twice) < 5 * floor_of_two
    best, _ = squared_bias(EDEN(1, bucket=512, unbiased=False), x, copies=64, seeds=10)
    # The smaller error shrinks x by D = 0.363: a squared bias of D^2.
    assert best == pytest.approx(0.36338**2, rel=0.1)
    assert not EDEN(unbiased=False).unbiased
    assert EDEN().unbiased


def test_error_does_not_depend_on_the_update_after_two_transforms() -> None:
    spike = torch.zeros(2**15)
    spike[::4096] = 1
    codec = EDEN(2, rotations=2)
    assert trials(codec, spike, seeds=12).nmse == pytest.approx(codec.expected_nmse(spike), rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"bits": 0}, "bits = 0"),
        ({"bits": 5}, "bits = 5"),
        ({"bits": 1.5}, "bits = 1.5"),
        ({"bits": True}, "bits = True"),
        ({"bits": float("nan")}, "bits = nan"),
        ({"bucket": 1000}, "bucket = 1000"),
        ({"rotations": 0}, "rotations = 0"),
    ],
)
def test_bad_parameters_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EDEN(**arguments)  # type: ignore[arg-type]
