"""Sensitivity of what a server receives, and noise that devices add where the channel's is not enough."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from channel.channel import ChannelState
from channel.uplinks.alignment import Alignment

Real = NDArray[np.float64]


def sensitivities(alignment: Alignment, state: ChannelState, uses: int) -> Real:
    r"""How far each device can move the received block y, shape (K,): :math:`\sqrt m\,\max_s b_{si}\|h_{si}\|`.

    A block of symbols has at most unit power, in sum over its m uses, and may have all of it in one resource block s;
    every antenna hears it. Parameters: the exchange's powers and channel, and m.
    """
    heard = np.linalg.norm(state.response, axis=2) * alignment.amplitudes
    return math.sqrt(uses) * np.asarray(heard.max(axis=0), dtype=np.float64)


def protect(
    alignment: Alignment, state: ChannelState, noise_power: float, uses: int, limit: float, multiplier: float
) -> Alignment:
    r"""Noise over sensitivity of at least z for every device, within the power limit.

    With amplitudes :math:`\kappa b_i` and noise of variance :math:`\tau_i^2`, :math:`\kappa^2 b_i^2 + \tau_i^2 \le P`,

    .. math::
        \sigma^2 + \sum_i |h_i|^2 \tau_i^2 \ge z^2 \kappa^2 \Delta^2, \qquad
        \kappa^2 = \min\Big(1, \frac{\sigma^2 + \sum_i |h_i|^2 P}{z^2\Delta^2 + \sum_i |h_i|^2 b_i^2}\Big)

    is the loudest that leaves room for it; each device gives the same share of what power it has left. The receive
    scale becomes :math:`a/\kappa`. Nothing changes where the channel's noise is enough.

    Parameters
    ----------
    alignment : Alignment
        As power control has it; of one resource block.
    state : ChannelState
        Of one resource block and one antenna: several antennas could tell added noise from the channel's.
    noise_power : float
        sigma^2 that the server cannot do without.
    uses : int
        m.
    limit : float
        P.
    multiplier : float
        z > 0.

    Raises
    ------
    ValueError
        Several resource blocks or antennas.
    """
    if state.response.shape[0] != 1 or state.response.shape[2] != 1:
        blocks, _, antennas = state.response.shape
        raise ValueError(
            f"protect: {blocks} resource blocks and {antennas} antennas; accepted: one of each, where added noise "
            "cannot be told from the channel's"
        )
    gains, amplitudes = np.abs(state.response[0, :, 0]), alignment.amplitudes[0]
    wanted = float(multiplier * sensitivities(alignment, state, uses).max()) ** 2
    if wanted <= noise_power:
        return alignment
    reach, spent = float(np.sum(gains**2) * limit), float(np.sum((gains * amplitudes) ** 2))
    louder = min(1.0, math.sqrt((noise_power + reach) / (wanted + spent)))
    quiet = louder * amplitudes
    room = np.maximum(0.0, limit - quiet**2)
    received = max(0.0, louder**2 * wanted - noise_power)
    powers = room * (received / max(float(np.sum(gains**2 * room)), 1e-300))
    scales = alignment.receive_scales / louder
    more = float(scales[0] ** 2 * (noise_power + received) - alignment.receive_scales[0] ** 2 * noise_power)
    return replace(
        alignment,
        amplitudes=quiet[None],
        receive_scales=scales,
        mse=max(0.0, alignment.mse + more),
        noise_powers=powers,
        added_noise=received,
    )
