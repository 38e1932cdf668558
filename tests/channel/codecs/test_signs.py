"""Sign codecs: one bit an entry, the least error that it allows, and where the scales come from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from channel.codecs.signs import OneBitSGD, ScaledSign
from tests.channel.codecs.trials import gaussian, heavy_tailed, nmse, trials

torch.set_num_threads(1)

SIZE = 2**17
CODECS = [ScaledSign(), OneBitSGD()]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


@pytest.mark.parametrize(("codec", "bits", "table"), [(ScaledSign(), 1.0, 0.3635), (OneBitSGD(), 1.125, 0.3621)])
def test_bits_and_error_are_those_of_the_table(codec: ScaledSign | OneBitSGD, bits: float, table: float) -> None:
    found = trials(codec, gaussian(SIZE), 2)
    assert found.bits / SIZE == pytest.approx(bits, rel=0.0015)  # a scale and 96 bits for the packet
    # |z| has a variance of 1 - 2/pi: 1 - mean² of 131,072 deviates by 0.0027, relative to 0.3634 by 0.7 %.
    assert found.nmse == pytest.approx(table, rel=0.02)
    assert codec.expected_nmse(gaussian(SIZE)) == pytest.approx(1 - 2 / math.pi, rel=0.02)
    assert found.standard_error == 0


@every_codec
def test_seed_does_not_matter(codec: ScaledSign | OneBitSGD) -> None:
    update = heavy_tailed(900)
    assert codec.encode(update, seed=1) == codec.encode(update, seed=2)


def test_scale_is_the_mean_magnitude() -> None:
    update = torch.tensor([1.0, -2.0, 3.0, 0.0])
    codec = ScaledSign()
    decoded = codec.decode(codec.encode(update, seed=0), seed=0)
    torch.testing.assert_close(decoded, torch.tensor([1.5, -1.5, 1.5, 1.5]))


def test_no_other_scale_has_a_smaller_error() -> None:
    update = heavy_tailed(2000)
    codec = ScaledSign()
    decoded = codec.decode(codec.encode(update, seed=0), seed=0)
    least = nmse(decoded, update)
    assert all(nmse(decoded * factor, update) > least for factor in (0.9, 0.99, 1.01, 1.1))


def test_two_means_of_a_bucket_are_those_of_its_signs() -> None:
    update = torch.tensor([1.0, -2.0, 3.0, -6.0, 5.0, 0.0, 7.0])
    codec = OneBitSGD(bucket=4)
    decoded = codec.decode(codec.encode(update, seed=0), seed=0)
    torch.testing.assert_close(decoded, torch.tensor([2.0, -4.0, 2.0, -4.0, 4.0, 4.0, 4.0]))


def test_update_of_two_values_is_exact_with_two_means() -> None:
    update = torch.where(torch.arange(1000) % 3 == 0, -0.25, 4.0)
    codec = OneBitSGD(bucket=100)
    assert torch.equal(codec.decode(codec.encode(update, seed=0), seed=0), update)
    assert codec.expected_nmse(update) == pytest.approx(0, abs=1e-12)


def test_two_means_keep_the_mean_of_every_bucket() -> None:
    update = heavy_tailed(3000)
    codec = OneBitSGD(bucket=250)
    decoded = codec.decode(codec.encode(update, seed=0), seed=0)
    torch.testing.assert_close(decoded.view(12, -1).mean(dim=1), update.view(12, -1).mean(dim=1), atol=1e-5, rtol=1e-4)


def test_buckets_help_where_scales_differ() -> None:
    update = gaussian(2**14)
    update[2**13 :] *= 100
    # Two scales: 1 - (2/pi) 50.5² / 5000.5 of the square is lost with one for both, 1 - 2/pi with one each.
    assert ScaledSign().expected_nmse(update) == pytest.approx(1 - 2 / math.pi * 50.5**2 / 5000.5, rel=0.02)
    assert ScaledSign(bucket=256).expected_nmse(update) == pytest.approx(1 - 2 / math.pi, rel=0.02)


@every_codec
def test_filling_of_the_last_bucket_does_not_count(codec: Any) -> None:
    update = torch.full((513,), -3.0)
    short = type(codec)(bucket=512)
    assert torch.equal(short.decode(short.encode(update, seed=0), seed=0), update)
    assert short.expected_nmse(update) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("make", [ScaledSign, OneBitSGD])
def test_bucket_that_is_no_number_of_entries_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="bucket = 0: accepted"):
        make(bucket=0)
