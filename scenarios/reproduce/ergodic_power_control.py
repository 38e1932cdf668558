"""Average power limits against limits in every exchange: our errors beside the published ones.

usage: python scenarios/reproduce/ergodic_power_control.py [--states 400] [--seed 0]

K devices with equal weights 1/K send over i.i.d. Rayleigh channels; SNR is the power limit over the noise and errors
are K² times the mean squared error. The first table holds the least error within average limits when all states are
known, and its dual bound; the second AveragePower, which knows simulated states only, with a finite peak: with its
fitted prices alone, as published, and with the correction that holds each device's average. Published figures are of
docs/equations.md, 1g and 1h (200 to 500 states, other draws).
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from numpy.typing import NDArray

from channel import Rayleigh
from channel.power import AveragePower, MinimumMSE, PowerControl, ergodic_optimum

Real = NDArray[np.float64]

ERGODIC = {  # (K, SNR in dB): limit in every round, average limit
    (10, 0): (2.39, 2.04),
    (10, 10): (0.794, 0.419),
    (10, 20): (0.226, 0.064),
    (20, 0): (3.41, 2.58),
    (20, 10): (1.095, 0.466),
    (20, 20): (0.316, 0.063),
    (100, 0): (7.90, 4.12),
    (100, 10): (2.47, 0.673),
    (100, 20): (0.737, 0.098),
}
PEAKS = (1.5, 4.0, 10.0, 100.0)
ONLINE = {  # limit in every round, then online at each of PEAKS
    (20, 10): (1.1350, 0.9224, 0.5564, 0.4786, 0.4779),
    (20, 20): (0.3326, 0.2636, 0.1446, 0.0850, 0.0637),
    (100, 10): (2.4818, 2.0201, 1.2209, 0.7607, 0.5842),
    (100, 20): (0.7551, 0.6074, 0.3487, 0.1981, 0.0761),
}


def states(count: int, devices: int, seed: int) -> Real:
    """Magnitudes of Rayleigh channels, shape (count, devices)."""
    return np.abs([Rayleigh().coefficients(state, devices, seed) for state in range(count)])


def error(policy: PowerControl, channels: Real, noise_power: float) -> float:
    """Mean K² MSE over the states."""
    devices = channels.shape[1]
    weights = np.full(devices, 1 / devices)
    return devices**2 * float(np.mean([policy.allocate(h, weights, 1.0, noise_power).mse for h in channels]))


def ergodic_table(count: int, seed: int) -> None:
    """All states known."""
    print("| K | SNR dB | limit every round | published | average limit | dual bound | published | sweeps |")
    print("|---" * 8 + "|")
    for (devices, snr_db), (every_round, average) in ERGODIC.items():
        channels, noise_power = states(count, devices, seed), 10 ** (-snr_db / 10)
        fit = ergodic_optimum(channels, 1.0, noise_power, np.full(devices, 1 / devices), math.inf)
        limited = error(MinimumMSE("closed-form"), channels, noise_power)
        print(
            f"| {devices} | {snr_db} | {limited:.3g} | {every_round} | {fit.error:.4g} | {fit.bound:.4g} "
            f"| {average} | {fit.sweeps} |"
        )


def online_table(count: int, seed: int) -> None:
    """Prices fitted on one set of states, used on another."""
    print("| K | SNR dB | peak/average | published | fitted prices | corrected | mean power | largest mean power |")
    print("|---" * 8 + "|")
    for (devices, snr_db), (every_round, *published) in ONLINE.items():
        noise_power, weights = 10 ** (-snr_db / 10), np.full(devices, 1 / devices)
        simulated, channels = states(count, devices, seed + 1), states(count, devices, seed)
        limited = error(MinimumMSE("closed-form"), channels, noise_power)
        print(f"| {devices} | {snr_db} | limit every round | {every_round} | {limited:.4g} | | | |")
        for peak, figure in zip(PEAKS, published, strict=True):
            fitted, corrected = AveragePower(peak, step=0.0), AveragePower(peak)
            found = []
            for policy in (fitted, corrected):
                policy.learn(simulated, np.ones(devices), noise_power, weights)
                found.append(error(policy, channels, noise_power))
            powers = corrected.mean_powers
            print(
                f"| {devices} | {snr_db} | {peak:g} | {figure} | {found[0]:.4g} | {found[1]:.4g} "
                f"| {powers.mean():.3f} | {powers.max():.3f} |"
            )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=400, help="Rayleigh states of each table row")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ergodic_table(arguments.states, arguments.seed)
    print()
    online_table(arguments.states, arguments.seed)


if __name__ == "__main__":
    main()
