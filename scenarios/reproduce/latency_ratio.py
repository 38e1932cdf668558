"""How much longer OFDMA takes than a sum over the air, against the number of devices.

usage: python scenarios/reproduce/latency_ratio.py [--bits 4] [--threshold 0.1]

Over the air an update takes half as many complex channel uses as it has entries, however many devices send. OFDMA
gives each device an equal share of the band, uncoded QAM at a bit error rate of 1e-3 (SNR gap 5.5 dB), and lasts until
the slowest device is done. Rayleigh fading, no power gains below the threshold; SNR is a device's power over the noise
of the whole band. Either a device puts all its power into its own share, or it keeps the power density of the air,
which leaves (K - 1)/K of it unused. In brackets the figures of an independent study of this model; the last column is
the slope of the ratio over the number of devices, both on logarithmic axes.
"""

from __future__ import annotations

import argparse
from typing import Literal

import numpy as np

from channel import OFDMA, Channel, GapLink, LinkBudget

DEVICES = (10, 50, 100, 200)
BANDWIDTH, ENTRIES, QUANTILES = 1e6, 10**6, 100
Power = Literal["own-band", "equal-density"]
EXPECTED: dict[tuple[int, Power], tuple[int, ...]] = {
    (10, "own-band"): (38, 102, 164, 274),
    (20, "own-band"): (16, 56, 98, 175),
    (10, "equal-density"): (193, 1111, 2224, 4449),
    (20, "equal-density"): (38, 206, 413, 826),
}


def ratio(devices: int, power: Power, snr_db: float, bits: int = 4, threshold: float = 0.1) -> float:
    """Mean over the fading of OFDMA's air time, over that of the air.

    The weakest of K gains decides; its quantiles are -ln(1 - u) / K.
    """
    over_the_air = Channel(bandwidth=BANDWIDTH).seconds(ENTRIES)
    link, draws = GapLink.from_bit_error_rate(1e-3), [np.random.default_rng(0)] * devices
    times = []
    for u in (np.arange(QUANTILES) + 0.5) / QUANTILES:
        gains = np.full(devices, max(-np.log1p(-u) / devices, threshold))
        budget = LinkBudget(np.sqrt(gains), 1.0, 10 ** (-snr_db / 10), BANDWIDTH)
        times.append(OFDMA("equal", power).send(budget, bits * ENTRIES, link, draws).air_time)
    return float(np.mean(times)) / over_the_air


def growth(ratios: list[float]) -> float:
    """The exponent a of ratio ~ K^a, by least squares."""
    return float(np.polyfit(np.log(DEVICES), np.log(ratios), 1)[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=4, help="an entry; ratios are proportional to them")
    parser.add_argument("--threshold", type=float, default=0.1, help="of the power gain")
    arguments = parser.parse_args()
    print("| power | SNR dB | " + " | ".join(f"K = {devices}" for devices in DEVICES) + " | grows as K to the |")
    print("|---" * (len(DEVICES) + 3) + "|")
    for (snr_db, power), expected in EXPECTED.items():
        ratios = [ratio(devices, power, snr_db, arguments.bits, arguments.threshold) for devices in DEVICES]
        cells = [f"{ours:.0f} ({theirs})" for ours, theirs in zip(ratios, expected, strict=True)]
        print(f"| {power} | {snr_db} | " + " | ".join(cells) + f" | {growth(ratios):.2f} |")


if __name__ == "__main__":
    main()
