"""What amplifiers have to cope with: peaks and energies of devices' symbols."""

from __future__ import annotations

import torch
from torch import Tensor


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
    papr_db = 10 * torch.log10(power.amax(dim=1)[sending] / energy[sending])
    spread = energy[sending]
    return {
        "papr_db_mean": float(papr_db.mean()),
        "papr_db_max": float(papr_db.max()),
        "energy_ratio_min": float(spread.min()),
        "energy_ratio_max": float(spread.max()),
        "energy_ratio_std": float((spread - 1).square().mean().sqrt()),
    }
