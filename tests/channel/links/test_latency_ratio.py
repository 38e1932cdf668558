"""How much longer OFDMA takes than the air: the ratios of broadband analog aggregation, and what they stand for."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from channel import Channel
from channel.links import OFDMA, GapLink, LinkBudget

BANDWIDTH = 1e6
ENTRIES = 1_000_000
WEAKEST = 0.1  # truncation: no channel is worse than this
LINK = GapLink.from_bit_error_rate(1e-3)  # 5.48 dB


def ratio(
    devices: int,
    snr_db: float,
    power: Literal["own-band", "equal-density"],
    bits_per_entry: int,
    shares: Literal["equal", "minimum-latency"] = "equal",
) -> float:
    """Mean over Rayleigh fading of the air time of OFDMA over that of the sum over the air, two entries a complex use.

    With equal shares the slowest device is what counts, and the weakest of K gains has the quantiles -ln(1 - u)/K.
    """
    over_the_air = Channel(bandwidth=BANDWIDTH).seconds(ENTRIES)
    access, nothing = OFDMA(shares, power), [np.random.default_rng(0)] * devices
    times = []
    for u in (np.arange(100) + 0.5) / 100:
        gains = np.full(devices, max(-np.log1p(-u) / devices, WEAKEST))
        budget = LinkBudget(np.sqrt(gains), 1.0, 10 ** (-snr_db / 10), BANDWIDTH)
        times.append(access.send(budget, bits_per_entry * ENTRIES, LINK, nothing).air_time)
    return float(np.mean(times)) / over_the_air


@pytest.mark.parametrize(
    ("devices", "snr_db", "own_band", "equal_density"),
    [
        (10, 20, 16, 38),
        (50, 20, 56, 206),
        (100, 20, 98, 413),
        (200, 20, 175, 826),
        (50, 10, 102, 1111),
        (200, 10, 274, 4449),
    ],
)
def test_ratios_of_the_literature_stand_for_four_bits_an_entry(
    devices: int, snr_db: float, own_band: int, equal_density: int
) -> None:
    # Four bits at two entries a complex use on the air; as well eight bits at one. They are printed as integers, of a
    # mean over draws.
    assert ratio(devices, snr_db, "own-band", 4) == pytest.approx(own_band, rel=1e-3, abs=0.6)
    assert ratio(devices, snr_db, "equal-density", 4) == pytest.approx(equal_density, rel=1e-3, abs=0.6)


def test_sixteen_bits_an_entry_take_four_times_as_long() -> None:
    assert ratio(50, 20, "own-band", 16) == pytest.approx(4 * ratio(50, 20, "own-band", 4), rel=1e-9)


def test_a_power_mask_flatters_the_air_by_what_the_narrow_band_would_have_gained() -> None:
    flattery = [ratio(k, 20, "equal-density", 4) / ratio(k, 20, "own-band", 4) for k in (10, 50, 200)]
    assert 2 < flattery[0] < flattery[1] < flattery[2] < 5
