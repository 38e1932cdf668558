"""Non-coherent aggregation: energies add up, so devices need to know no channel (REED)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.channel import Channel, ChannelState
from channel.codes import EnergyChips
from channel.ledger import Cost
from channel.order import TransmitOrder
from channel.randomness import generator, key
from channel.uplinks.chip_energies import ChipEnergies, fading_by_the_chip, fading_by_the_exchange
from channel.uplinks.uplink import (
    CONTROL_BITS,
    Cohort,
    Grant,
    MeanUplink,
    Reception,
    check_one_limit,
    check_share,
    power_of,
)

Real = NDArray[np.float64]

USES_PER_CHIP = 2
"""Real channel uses: a chip has a complex use to itself, as its phase says nothing."""


@dataclass
class NonCoherentUplink(MeanUplink):
    r"""Over-the-air aggregation by energies: for devices that know their mean path gain and nothing of their channel.

    An entry takes a pair of chips (:class:`~channel.codes.energy_chips.EnergyChips`), and each of them L complex uses.
    On the L uses of its chip device i sends :math:`\sqrt{\eta w_i x_{ij}^\pm/\beta_i}\,e^{j\theta}` with random
    phases :math:`\theta`, :math:`\beta_i` the mean of :math:`|h_i|^2`. With M antennas the server estimates

    .. math::
        \hat x_j = \frac1{L M \eta} \sum_{l,a} |y^+_{jla}|^2 - |y^-_{jla}|^2,

    unbiased for :math:`\sum_i w_i x_{ij}` over fading, phases and noise, whatever the noise power. Where every chip
    fades on its own (Rayleigh) the received energies are exponential, and with :math:`S^\pm_j = \sum_i w_i
    x_{ij}^\pm`

    .. math::
        \operatorname{Var} \hat x_j = \frac{(S^+_j + N_0/\eta)^2 + (S^-_j + N_0/\eta)^2}{L M}.

    More chips average more of what devices do to each other, at 4 d L real uses an exchange where a coherent code
    takes at most d. At a given energy eta is 1/L of that of one chip, and the variance least at L the signal-to-noise
    ratio of that one, :math:`\eta\,\mathrm{rms}(S)/N_0` over all chips.

    **Power.** Device i spends :math:`\eta w_i \|x_i\|_1/\beta_i` on each of L, a mean power of that over 2 d. The
    gain eta is the largest at which no device exceeds the limit: :math:`\eta = \min_i 2 d P \beta_i/(w_i\|x_i\|_1)`,
    from norms said on the control channel as on other uplinks. The device with least of a mean gain sets it for all.

    Parameters
    ----------
    channel : Channel
        Gains and noise of each exchange, and mean gains.
    power_limit : float, optional
        Limit P on a device's power averaged over the exchange (W, or normalised); 1 if neither limit is given.
    energy_per_round : float, optional
        Limit on the energy of one exchange, from which P follows; not together with `power_limit`.
    chips : int, default 1
        L >= 1.
    fading : {"exchange", "chip"}
        ``exchange``: the channel's own, constant over an exchange in each resource block. The uses of a chip are
        spread evenly over the blocks. What fades then is a device as a whole, in every entry that uses a block:
        chips of one block average over phases only. ``chip``: every use of a chip sees Rayleigh fading of its own,
        of the channel's mean gains, as if devices hopped over a wide band; the published model.

    Raises
    ------
    ValueError
        A parameter outside the above.

    References
    ----------
    H. Chen, Z. Bozorgasl, "Resource-element energy difference for noncoherent over-the-air federated learning",
    arXiv:2605.07263, 2026.
    """

    channel: Channel = field(default_factory=Channel)
    power_limit: float | None = None
    energy_per_round: float | None = None
    chips: int = 1
    fading: Literal["exchange", "chip"] = "exchange"

    def __post_init__(self) -> None:
        check_one_limit("NonCoherentUplink", self.power_limit, self.energy_per_round)
        if self.chips != int(self.chips) or self.chips < 1:
            raise ValueError(f"NonCoherentUplink: chips is {self.chips!r}; accepted: an integer >= 1")
        if self.fading not in ("exchange", "chip"):
            raise ValueError(f"NonCoherentUplink: fading is {self.fading!r}; accepted: 'exchange', 'chip'")
        self.code = EnergyChips()

    def order(self, exchange: int, seed: int) -> TransmitOrder:
        """Devices send the amplitudes of their chips."""
        return TransmitOrder(self.code.name, self.code.parameters, key(seed, "code", exchange))

    def uses(self, size: int) -> int:
        """4 d L real channel uses: two chips an entry, of L complex uses each."""
        return USES_PER_CHIP * self.chips * self.code.uses(size)

    def grant(self, size: int) -> Grant:
        """The channel uses, and the energy of a device that sends at its limit."""
        uses = self.uses(size)
        if self.energy_per_round is not None:
            return Grant(uses, self.energy_per_round)
        return Grant(uses, float(self.channel.energy(np.sqrt([self._power_limit(uses)]), uses)[0]))

    def receive(self, cohort: Cohort, exchange: int, seed: int, block: int = 0, energy_share: float = 1.0) -> Reception:
        """Energies of superposed chips, and the difference of each pair."""
        check_share(energy_share)
        size, uses = cohort.size, self.uses(cohort.size)
        state = self.channel.state(exchange, cohort.devices, cohort.total, seed)
        mean_gains = self._mean_gains(cohort, state, exchange, seed)
        limit = self._power_limit(uses)
        gain, amplitudes = _allocate(cohort, mean_gains, limit * energy_share)
        heard = gain > 0
        record: dict[str, Any] = {
            "heard": heard or not np.any(cohort.norms > 0),
            "aggregation_gain": gain,
            "power_limit": limit * energy_share,
            "noise_power": state.noise_power,
            "gains": np.abs(state.gains).tolist(),
            "mean_gains": mean_gains.tolist(),
            "amplitudes": amplitudes.tolist(),
            "mse_measured": None,
            "mse_predicted": None,
        }
        update = None if not record["heard"] else torch.zeros(size, dtype=torch.float64)
        noise_variance = math.inf
        if heard:
            code_seed = self.order(exchange, seed).of_block(block).seed
            wanted = self._wanted_powers(cohort, code_seed)
            draws = generator(seed, "chips", exchange, *([block] if block else []))
            chips = self._listen(wanted, amplitudes > 0, state, mean_gains, state.noise_power / gain, draws)
            update, expected = self.code.decode(torch.stack([chips.energies, chips.expected]), size, code_seed)
            mean = self.code.decode(wanted.sum(dim=0), size, code_seed)
            record["mse_measured"] = float((update - mean).square().sum())
            record["mse_predicted"] = float(chips.variance.sum() + (expected - mean).square().sum())
            noise_variance = self._known_error(chips.energies, size, state)
        cost = Cost(
            uses=uses,
            energy=self.channel.energy(amplitudes, uses),
            air_time=self.channel.seconds(uses),
            bits=CONTROL_BITS * len(cohort.devices),
        )
        snr = limit * float(mean_gains.mean()) / state.noise_power if state.noise_power > 0 else math.inf
        return Reception(update, cost, record, noise_variance, snr)

    def _wanted_powers(self, cohort: Cohort, code_seed: int) -> Tensor:
        """Positive and negative parts of w_i x_ij, (K, 2 d): what chips are to arrive with, over eta."""
        # ||x_i||_1 is the square of the norm of what is coded; symbols have unit mean power.
        scale = cohort.weights * cohort.norms**2 / self.code.uses(cohort.size)
        return cohort.symbols(self.code, code_seed).double().square() * torch.from_numpy(scale)[:, None]

    def _listen(
        self,
        wanted: Tensor,
        sending: NDArray[np.bool_],
        state: ChannelState,
        mean_gains: Real,
        noise_power: float,
        draws: np.random.Generator,
    ) -> ChipEnergies:
        """Energies of the chips over eta."""
        powers = wanted[torch.from_numpy(sending)]
        if self.fading == "chip":
            return fading_by_the_chip(powers, noise_power, self._observations(state), draws)
        relative = state.response[:, sending] / np.sqrt(mean_gains[sending])[:, None]
        return fading_by_the_exchange(powers, relative, noise_power, self.chips, draws)

    def _observations(self, state: ChannelState) -> int:
        return self.chips * int(state.response.shape[2])

    def _known_error(self, energies: Tensor, size: int, state: ChannelState) -> float:
        """Expected squared error of an entry, of an unbiased estimate from the energies heard.

        Infinite where devices fade as a whole: from one exchange that cannot be heard.
        """
        if self.fading == "exchange":
            return math.inf
        # A mean e of n exponentials of mean u has E e^2 = u^2 (n + 1) / n, and the error is u^2 / n.
        return float(energies.square().sum()) / (size * (self._observations(state) + 1))

    def _mean_gains(self, cohort: Cohort, state: ChannelState, exchange: int, seed: int) -> Real:
        """beta_i, shape (K,); 0 for devices that the exchange's channel leaves out of reach."""
        path = np.broadcast_to(np.asarray(self.channel.power_gain, dtype=np.float64), cohort.total)
        mean: Real = (path * self.channel.fading.mean_power(exchange, cohort.total, seed))[cohort.devices]
        return np.where(np.abs(state.gains) > 0, mean, 0.0)

    def _power_limit(self, uses: int) -> float:
        return power_of(self.channel, self.power_limit, self.energy_per_round, uses)


def _allocate(cohort: Cohort, mean_gains: Real, limit: float) -> tuple[float, Real]:
    """Aggregation gain eta, 0 where nobody can be heard, and root mean square amplitudes (K,)."""
    needed = np.zeros(len(cohort.devices))
    reachable = mean_gains > 0
    needed[reachable] = (cohort.weights * cohort.norms**2)[reachable] / (2 * cohort.size * mean_gains[reachable])
    if not np.any(needed > 0):
        return 0.0, needed
    gain = limit / float(needed.max())
    return gain, np.sqrt(gain * needed)
