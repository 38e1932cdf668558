r"""Links between devices over the air: rates, energy of a bit, from where the devices are.

Between devices a and b at distance :math:`d_{ab}` the signal-to-noise ratio is :math:`P\beta(d_{ab})/N`, N the thermal
noise of the band, and the rate :math:`B \cdot r(\mathrm{SNR})` bit/s, r the spectral efficiency of the link.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from channel.links.link import Link
from channel.propagation import Propagation, thermal_noise_power
from strategies.repurpose.workers import Links


def device_to_device(
    places: ArrayLike,
    propagation: Propagation,
    link: Link,
    *,
    power: float,
    bandwidth_hz: float,
    noise_figure_db: float = 0.0,
    delay: float = 0.0,
    seed: int = 0,
) -> Links:
    """Links of devices that send one at a time in one band.

    Parameters
    ----------
    places : array, shape (P, 2)
        m.
    propagation : Propagation
        Mean power gain by distance; shadowing, if any, is one draw for each pair, the same both ways.
    link : Link
        Bits per complex use by SNR.
    power : float
        Of a sender, W.
    bandwidth_hz : float
    noise_figure_db : float
        Of the receivers.
    delay : float
        Of a message, s: access and headers.
    seed : int
        Of shadowing.

    Raises
    ------
    ValueError
        If two devices cannot reach each other at all: the message names them.
    """
    points = np.asarray(places, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"places have shape {points.shape}; accepted: (P, 2), finite numbers of metres")
    if not power > 0:
        raise ValueError(f"power = {power!r}; accepted: W > 0")
    count = len(points)
    first, second = np.triu_indices(count, 1)
    rate = np.full((count, count), np.inf)
    if len(first):
        distance = np.linalg.norm(points[first] - points[second], axis=1)
        gain = propagation.power_gain(distance, seed)
        snr = power * gain / thermal_noise_power(bandwidth_hz, noise_figure_db)
        found = bandwidth_hz * link.spectral_efficiency(snr)
        if not (found > 0).all():
            worst = int(np.argmin(found))
            raise ValueError(
                f"places: devices {first[worst]} and {second[worst]}, {distance[worst]:.0f} m apart, cannot reach each "
                f"other (SNR {10 * np.log10(snr[worst]):.1f} dB); accepted: nearer devices, or more power"
            )
        rate[first, second] = rate[second, first] = found
    return Links(rate, delay, shared=True, energy_per_bit=power / rate)
