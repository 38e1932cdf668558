"""What amplifiers have to cope with: peaks and energies of devices' symbols."""

from __future__ import annotations

import torch
from torch import Tensor

from channel.impairments.amplifier import Amplifier
from channel.mac import pack


def transmit_statistics(symbols: Tensor) -> dict[str, float]:
    """Peak-to-average power (dB) and energy of the devices' symbols, relative to one unit a use.

    Parameters
    ----------
    symbols : Tensor, shape (K, m)
        Of each device.

    Returns
    -------
    dict of str to float
        Mean and largest of the former over the devices that send; least, largest and standard deviation of the latter.
        Empty if nobody sends.
    """
    power = symbols.double().square()
    energy = power.mean(dim=1)
    sending = energy > 0
    if not bool(sending.any()):
        return {}
    papr_db = peaks_db(power)
    spread = energy[sending]
    return {
        "papr_db_mean": float(papr_db.mean()),
        "papr_db_max": float(papr_db.max()),
        "energy_ratio_min": float(spread.min()),
        "energy_ratio_max": float(spread.max()),
        "energy_ratio_std": float((spread - 1).square().mean().sqrt()),
    }


def amplifier_statistics(amplifier: Amplifier, symbols: Tensor) -> dict[str, float]:
    """Peak-to-average power (dB) of what leaves the amplifiers: complex time samples, of OFDM where there is some.

    Mean and largest over the devices that send, of symbols of shape (K, m) before the amplifier; empty if nobody does.
    """
    papr_db = peaks_db(amplifier.radiated(pack(symbols.double())).abs().square())
    if not len(papr_db):
        return {}
    return {"papr_db_radiated_mean": float(papr_db.mean()), "papr_db_radiated_max": float(papr_db.max())}


def peaks_db(power: Tensor) -> Tensor:
    """Peak-to-average power (dB) of powers (K, n), of those that are not all zero."""
    mean = power.mean(dim=1)
    return 10 * torch.log10(power.amax(dim=1)[mean > 0] / mean[mean > 0])
