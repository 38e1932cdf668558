"""Modulation and coding schemes: the standard's table, Sionna's error rates, link adaptation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from channel.links import McsLink, OuterLoop, ShannonLink, packet_loss
from channel.links.block_errors import NormalApproximation, SionnaTables
from channel.links.modulation_and_coding import BITS_PER_USE, code_blocks

SIMULATED = [  # MCS, code block, SNR (dB), block error of Sionna's 5G LDPC simulator, 100 to 300 blocks each
    (5, 2000, -0.80, 0.61),
    (5, 8448, -0.80, 0.44),
    (10, 2000, 3.00, 0.84),
    (12, 2000, 4.90, 0.40),
    (15, 2000, 8.00, 0.16),
    (20, 2000, 11.42, 0.54),
    (27, 2000, 18.00, 0.51),
    (27, 8448, 18.00, 0.66),
]


def error(model: NormalApproximation | SionnaTables, mcs: int, size: float, snr_db: float) -> float:
    return float(model(np.array([[10 ** (snr_db / 10)]]), np.full((1, 29), size))[0, mcs])


def snr_db_at(mcs: int, size: float, wanted: float) -> float:
    return float(brentq(lambda x: error(NormalApproximation(), mcs, size, x) - wanted, -12.0, 30.0))


def test_spectral_efficiencies_are_those_of_the_standard() -> None:
    # the printed column of TS 38.214 table 5.1.3.1-1 at MCS 0, 9, 10, 16, 17 and 28
    printed = [0.2344, 1.3262, 1.3281, 2.5703, 2.5664, 5.5547]
    np.testing.assert_allclose(BITS_PER_USE[[0, 9, 10, 16, 17, 28]], printed, atol=5e-5)


@pytest.mark.parametrize(
    ("bits", "mcs", "blocks", "size"),
    [
        (100, 20, 1, 116),  # 16 check bits
        (8424, 20, 1, 8448),  # 24 check bits: just fits base graph 1
        (8425, 20, 2, 4249),  # (8425 + 24)/2 and 24 more check bits, rounded up
        (8424, 0, 3, 2840),  # base graph 2, by its rate: ceil(8448 / 3816)
        (1_000_000, 28, 119, 8428),
    ],
)
def test_packets_are_cut_as_in_38_212(bits: int, mcs: int, blocks: int, size: int) -> None:
    count, sizes = code_blocks(np.array([float(bits)]))
    assert (count[0, mcs], sizes[0, mcs]) == (blocks, size)


@pytest.mark.parametrize(("mcs", "size", "snr_db", "lost"), SIMULATED)
def test_the_formula_meets_the_simulated_code(mcs: int, size: int, snr_db: float, lost: float) -> None:
    # sampling moves a point by .05 dB at most (slope 3 to 6 blocks per dB); the fit is to coarser tables
    assert snr_db_at(mcs, size, lost) == pytest.approx(snr_db, abs=0.25)


def test_longer_codes_fall_more_steeply() -> None:
    spans = [snr_db_at(15, size, 0.01) - snr_db_at(15, size, 0.9) for size in (100, 1000, 8000)]
    assert spans[0] > spans[1] > spans[2] > 0


def test_adaptation_takes_the_fastest_scheme_within_the_target() -> None:
    link = McsLink(block_error_target=0.1)
    snr = 10 ** (np.arange(-4.0, 24.0, 0.5) / 10)
    chosen = link.format(snr, 20_000)
    assert (chosen.block_error <= 0.1).all()
    assert (np.diff(chosen.bits_per_use) >= 0).all()
    for index, rate in enumerate(BITS_PER_USE):
        faster = rate > chosen.bits_per_use
        assert (McsLink(mcs=index).format(snr, 20_000).block_error[faster] > 0.1).all()


def test_no_scheme_beats_capacity_and_the_table_is_two_decibels_off_it() -> None:
    snr = 10 ** (np.arange(-2.0, 20.0, 0.25) / 10)
    gaps = 10 * np.log10(snr / (2 ** McsLink().spectral_efficiency(snr) - 1))
    assert gaps.min() > 0.9
    assert gaps.mean() == pytest.approx(2.2, abs=0.1)
    assert McsLink().spectral_efficiency(1e9)[0] == BITS_PER_USE[-1] < ShannonLink().spectral_efficiency(1e9)[0]


def test_below_the_table_the_slowest_scheme_is_sent_and_lost() -> None:
    made = McsLink().format(10**-1.5, 1000)
    assert made.bits_per_use[0] == BITS_PER_USE[0]
    assert packet_loss(made, 3)[0] > 0.999


def test_a_long_packet_needs_retransmissions() -> None:
    link = McsLink(mcs=15)
    snr = 10 ** (snr_db_at(15, code_blocks(np.array([1e6]))[1][0, 15], 0.1) / 10)
    made = link.format(snr, 1_000_000)
    assert made.block_error[0] == pytest.approx(0.1, rel=1e-6)
    loss = [packet_loss(made, limit)[0] for limit in (0, 1, 3)]
    assert loss[0] > 0.9999
    assert loss[2] == pytest.approx(1 - (1 - 1e-4) ** made.blocks[0], rel=1e-4)


def test_a_report_that_is_too_good_is_believed() -> None:
    snr = 10**0.5
    honest, fooled = (McsLink().format(snr, 8000, assumed_snr=snr * 10 ** (bias / 10)) for bias in (0, 3))
    assert fooled.bits_per_use > honest.bits_per_use
    assert fooled.block_error > 0.9 > 0.1 >= honest.block_error


@pytest.mark.parametrize("bias_db", [-4.0, 0.0, 4.0])
def test_the_outer_loop_holds_the_target_whatever_the_bias(bias_db: float) -> None:
    link, loop = McsLink(block_error_target=0.2), OuterLoop(1, block_error_target=0.2, step_db=0.5)
    rng = np.random.default_rng(4)
    lost = []
    for snr in 10 ** (rng.uniform(3.0, 15.0, 1000) / 10):  # over the whole table
        made = link.format(snr, 1000, loop.assumed_snr([0], [snr * 10 ** (bias_db / 10)]))
        lost.append(int(rng.random() < made.block_error[0]))
        loop.update([0], [lost[-1]], [1 - lost[-1]])
    # the offset is bounded, so losses and arrivals balance up to (final offset) / step
    assert np.mean(lost[100:]) == pytest.approx(0.2, abs=0.04)
    assert loop.offsets_db[0] > bias_db - 1.5


def test_the_outer_loop_stays_within_its_bounds_and_by_device() -> None:
    loop = OuterLoop(3, largest_db=5.0)
    loop.update([2], [100], [0])
    np.testing.assert_array_equal(loop.offsets_db, [0.0, 0.0, 5.0])
    np.testing.assert_allclose(loop.assumed_snr([1, 2], [1.0, 1.0]), [1.0, 10**-0.5])
    with pytest.raises(ValueError, match="step_db is 0"):
        OuterLoop(1, step_db=0)
