"""Links: rates and losses against their closed forms and against draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel.links import (
    LINKS,
    BlockFormat,
    FixedRateLink,
    GapLink,
    Link,
    McsLink,
    Retransmission,
    ShannonLink,
    expected_attempts,
    packet_loss,
)
from channel.links.delivery import draw_attempts

EXAMPLES: list[Link] = [ShannonLink(), GapLink(3.0), FixedRateLink(1.0), McsLink()]


def block_format(blocks: int, error: float, devices: int = 1) -> BlockFormat:
    return BlockFormat(
        np.ones(devices), np.full(devices, blocks), np.full(devices, 100.0), np.full(devices, error, dtype=float)
    )


def test_shannon_carries_log2_of_one_plus_snr_per_complex_use() -> None:
    np.testing.assert_allclose(ShannonLink().spectral_efficiency([0.0, 1.0, 3.0, 1023.0]), [0.0, 1.0, 2.0, 10.0])


def test_a_gap_is_power_that_is_missing() -> None:
    snr = np.geomspace(0.01, 1e6, 9)
    np.testing.assert_allclose(
        GapLink(4.0).spectral_efficiency(snr * 10**0.4), ShannonLink().spectral_efficiency(snr), rtol=1e-12
    )
    assert GapLink.from_bit_error_rate(1e-3).gap_db == pytest.approx(5.48, abs=0.005)


def test_who_overrates_its_channel_loses_the_packet_and_who_underrates_it_is_slow() -> None:
    made = ShannonLink().format([3.0, 3.0, 3.0], 1000, assumed_snr=[1.0, 3.0 * (1 + 1e-12), 3.1])  # rounding is none
    np.testing.assert_array_equal(made.block_error, [0.0, 0.0, 1.0])
    assert made.bits_per_use[0] == 1.0
    assert made.block_uses[1] == pytest.approx(500.0)


def test_rayleigh_outage_is_the_closed_form() -> None:
    # 2^2 - 1 = 3 at a mean SNR of 10: 1 - exp(-.3); with four branches 1 - exp(-.3) sum .3^k/k!
    one = FixedRateLink(2.0).format(10.0, 1).block_error[0]
    four = FixedRateLink(2.0, branches=4).format(10.0, 1).block_error[0]
    assert one == pytest.approx(1 - math.exp(-0.3), rel=1e-12)
    assert one == pytest.approx(0.2592, abs=5e-5)
    assert four == pytest.approx(1 - math.exp(-0.3) * sum(0.3**k / math.factorial(k) for k in range(4)), rel=1e-9)
    assert four == pytest.approx(2.66e-4, rel=0.01)


def test_rayleigh_outage_is_how_often_drawn_channels_are_too_weak() -> None:
    gains = np.random.default_rng(0).exponential(size=100_000)
    lost = FixedRateLink(2.0, snr_is="instantaneous").format(10.0 * gains, 1).block_error
    assert set(np.unique(lost)) == {0.0, 1.0}
    expected = FixedRateLink(2.0).format(10.0, 1).block_error[0]
    assert lost.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected / len(gains)))


@pytest.mark.parametrize("link", EXAMPLES, ids=lambda link: link.name)
@given(snr_db=st.floats(-20, 40), more_db=st.floats(0, 20), bits=st.integers(1, 100_000))
@settings(deadline=None, max_examples=40)
def test_a_better_channel_never_takes_more_time(link: Link, snr_db: float, more_db: float, bits: int) -> None:
    made = link.format([10 ** (snr_db / 10), 10 ** ((snr_db + more_db) / 10)], bits)
    assert made.bits_per_use[1] >= made.bits_per_use[0] > 0
    assert ((made.block_error >= 0) & (made.block_error <= 1)).all()
    assert (made.blocks * made.block_bits >= bits).all()


@pytest.mark.parametrize("link", EXAMPLES, ids=lambda link: link.name)
def test_nothing_arrives_over_a_channel_of_no_gain(link: Link) -> None:
    assert packet_loss(link.format(0.0, 1000), limit=5)[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("blocks", "error", "limit"), [(1, 0.3, 0), (1, 0.3, 2), (40, 0.1, 1), (7, 0.6, 3)])
def test_retransmissions_lose_and_cost_what_the_formulas_say(blocks: int, error: float, limit: int) -> None:
    draws = 4000
    made = block_format(blocks, error, draws)
    attempts, missing = draw_attempts(made, limit, [np.random.default_rng([3, i]) for i in range(draws)])
    loss, mean = packet_loss(made, limit)[0], expected_attempts(made, limit)[0]
    assert (missing > 0).mean() == pytest.approx(loss, abs=4 * math.sqrt(loss * (1 - loss) / draws))
    assert attempts.mean() == pytest.approx(mean, abs=4 * attempts.std() / math.sqrt(draws))


def test_without_a_limit_to_speak_of_a_block_takes_one_over_one_minus_p_attempts() -> None:
    assert expected_attempts(block_format(1, 0.5), 60)[0] == pytest.approx(2.0)
    assert packet_loss(block_format(1, 0.5), 60)[0] == pytest.approx(0.5**61, rel=1e-6)


def test_a_device_draws_the_same_whoever_else_sends() -> None:
    def draw(devices: list[int]) -> list[int]:
        made = block_format(100, 0.3, len(devices))
        return draw_attempts(made, 5, [np.random.default_rng([1, d]) for d in devices])[0].tolist()

    assert draw([0, 1, 2])[2] == draw([2])[0]


@pytest.mark.parametrize("name", LINKS)
def test_links_go_by_the_name_of_their_class(name: str) -> None:
    assert LINKS[name].name == name  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: GapLink(-1.0), "gap_db is -1.0"),
        (lambda: GapLink.from_bit_error_rate(0.1), "bit_error_rate is 0.1"),
        (lambda: FixedRateLink(0.0), "bits_per_use is 0.0"),
        (lambda: FixedRateLink(1.0, snr_is="median"), "snr_is is 'median'"),  # type: ignore[arg-type]
        (lambda: FixedRateLink(1.0, branches=0), "branches is 0"),
        (lambda: FixedRateLink(1.0, "instantaneous", branches=2), "branches is 2"),
        (lambda: McsLink(block_error_target=1.0), "block_error_target is 1.0"),
        (lambda: McsLink(mcs=29), "mcs is 29"),
        (lambda: McsLink(block_errors="guess"), "block_errors is 'guess'"),  # type: ignore[arg-type]
        (lambda: ShannonLink().format(-1.0, 10), "snr is -1.0"),
        (lambda: ShannonLink().format(math.nan, 10), "snr is nan"),
        (lambda: ShannonLink().format(1.0, 0), "bits is 0"),
        (lambda: ShannonLink().format(1.0, 1.5), "bits is 1.5"),
        (lambda: ShannonLink().format([1.0, 2.0], [1, 2, 3]), r"\(2,\), \(3,\)"),
        (lambda: Retransmission(limit=-1), "limit is -1"),
        (lambda: Retransmission(deadline=0.0), "deadline is 0.0"),
        (lambda: draw_attempts(block_format(1, 0.5, 2), 0, []), "generators has 0 entries"),
    ],
)
def test_bad_input_is_named(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
