"""Mean squared error of four power controls against SNR, over Rayleigh fading.

usage: python scenarios/reproduce/power_control_table.py [--devices 20] [--draws 2000] [--seed 0]

K devices with equal weights 1/K and peak power 1 send over i.i.d. Rayleigh channels; the table holds K² times the
mean squared error of the received mean, with its standard error over the draws. Channel inversion has no ensemble
mean (1/|h|² has none), so its median is printed beside the mean of the draws.
"""

from __future__ import annotations

import argparse

import numpy as np

from channel import ChannelInversion, FullPower, MinimumMSE, Rayleigh, TruncatedInversion
from channel.power import PowerControl

SNRS_DB = (-10, 0, 10, 20, 30)
POLICIES: dict[str, PowerControl] = {
    "minimum MSE": MinimumMSE(solver="closed-form"),
    "channel inversion": ChannelInversion(),
    "full power": FullPower(),
    "truncated, threshold 0.1": TruncatedInversion(threshold=0.1),
    "truncated, best threshold": TruncatedInversion(),
}


def errors(policy: PowerControl, gains: np.ndarray, snr_db: float) -> np.ndarray:
    """K² MSE of each draw; gains (draws, K)."""
    devices = gains.shape[1]
    weights = np.full(devices, 1 / devices)
    noise_power = 10 ** (-snr_db / 10)
    return np.array([devices**2 * policy.allocate(h, weights, 1.0, noise_power).mse for h in gains])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    gains = np.stack(
        [Rayleigh().coefficients(draw, arguments.devices, arguments.seed) for draw in range(arguments.draws)]
    )
    print("| SNR dB | " + " | ".join(POLICIES) + " | channel inversion, median |")
    print("|---" * (len(POLICIES) + 2) + "|")
    for snr_db in SNRS_DB:
        cells = []
        for policy in POLICIES.values():
            values = errors(policy, gains, snr_db)
            cells.append(f"{values.mean():.3g} ± {values.std() / np.sqrt(len(values)):.1g}")
        median = np.median(errors(POLICIES["channel inversion"], gains, snr_db))
        print(f"| {snr_db} | " + " | ".join(cells) + f" | {median:.3g} |")


if __name__ == "__main__":
    main()
