"""The channel of a scenario: what each exchange's gains and noise are, and what sending costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.availability import Always, Availability
from channel.fading import AWGN, Fading
from channel.impairments import Impairments, ResourceGrid

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class ChannelState:
    """The channel of one exchange, for the devices that take part.

    Attributes
    ----------
    gains : ndarray of complex128, shape (K,)
        h_i, path loss included. With several antennas or subbands the root mean square over the subbands of what
        matched combining makes of the antennas: the gain of a link of its own.
    noise_power : float
        sigma^2 per real use of the real model, interference included; N0 = sigma^2 per complex use.
    blocks : ndarray of complex128, shape (S, K, M), optional
        What each resource block (subband or time slot) does to each device at each antenna; None where that is `gains`
        for one of each.
    estimates : ndarray of complex128, shape (S, K, M), optional
        What server and devices take `blocks` to be; None where they know.
    expected_noise : float, optional
        The noise that they reckon with; None where it is `noise_power`.
    """

    gains: Complex
    noise_power: float
    blocks: Complex | None = None
    estimates: Complex | None = None
    expected_noise: float | None = None

    @property
    def response(self) -> Complex:
        """The channel as it is, shape (S, K, M)."""
        return self.gains[None, :, None] if self.blocks is None else self.blocks

    @property
    def believed(self) -> Complex:
        """The channel as server and devices know it, shape (S, K, M)."""
        return self.response if self.estimates is None else self.estimates

    @property
    def believed_gains(self) -> Complex:
        """`gains` as server and devices know them, shape (K,)."""
        return self.gains if self.estimates is None else link_gains(self.estimates)

    @property
    def believed_noise(self) -> float:
        """The noise power that they reckon with."""
        return self.noise_power if self.expected_noise is None else self.expected_noise


def link_gains(blocks: Complex) -> Complex:
    """Gains (K,) of links of their own over (S, K, M): root mean square over blocks after matched combining."""
    if blocks.shape[0] == blocks.shape[2] == 1:
        return np.asarray(blocks[0, :, 0])
    return np.asarray(np.sqrt(np.mean(np.sum(np.abs(blocks) ** 2, axis=2), axis=0)), dtype=np.complex128)


@dataclass(frozen=True)
class Pilots:
    """What the pilots of one exchange cost.

    Attributes
    ----------
    uses : int
        Real channel uses, of all devices together.
    energy : float
        Of each device, J (or units of noise energy).
    """

    uses: int
    energy: float


@dataclass(frozen=True)
class Channel:
    r"""Block fading over path loss, :math:`h_i = \sqrt{\beta_i}\,g_i`, in physical or normalised units.

    **Real and complex uses.** The mathematics counts real channel uses; on the air two real entries ride on
    one complex use, :math:`x = (s_1 + j s_2)/\sqrt 2`, sent with amplitude b. Then :math:`p = b^2` is the
    total power of the complex use, noise is CN(0, N0), and per real entry the real model holds with sigma^2
    = N0 (convention C2 of docs/equations.md; :mod:`channel.mac` has both models).

    **Units.** ``physical=True``: powers are W, ``noise_power`` the noise in the bandwidth (see
    :func:`~channel.propagation.thermal_noise_power`), energies J. ``physical=False``: ``noise_power`` is the
    variance per real use, usually 1, b^2 the energy of one real use and energies are in units of noise
    energy. Air time is real seconds either way.

    Parameters
    ----------
    fading : Fading
        Unit-power block fading.
    power_gain : float or array of shape (N,)
        beta, linear: one for all or one per device of the scenario; > 0, or 0 for a device out of reach.
    noise_power : float
        sigma^2 >= 0.
    bandwidth : float
        Complex uses per second, Hz.
    physical : bool
        Which units :meth:`energy` is in.
    subbands, slots : int
        Resource blocks of an exchange: parts of the band side by side, one after another in time. The fading says how
        subbands differ; slots differ by frequency offsets alone.
    slot_seconds : float
        Duration of a slot, s.
    antennas : int
        M of the receiver.
    impairments : Impairments
        What server and devices do not know, or not well.
    availability : Availability
        Which devices can be reached at all.
    places : array of shape (N, 2), optional
        Where devices are, m, the receiver at 0; for show: `power_gain` says what it does to them. Left out where the
        fading places them itself, or nothing does.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    fading: Fading = field(default_factory=AWGN)
    power_gain: float | Real = 1.0
    noise_power: float = 1.0
    bandwidth: float = 1e6
    physical: bool = False
    subbands: int = 1
    slots: int = 1
    slot_seconds: float = 1e-3
    antennas: int = 1
    impairments: Impairments = field(default_factory=Impairments)
    availability: Availability = field(default_factory=Always)
    places: Real | None = None

    def __post_init__(self) -> None:
        gain = np.asarray(self.power_gain, dtype=np.float64)
        if gain.ndim > 1 or not (np.isfinite(gain).all() and (gain >= 0).all()):
            raise ValueError(f"power_gain is {self.power_gain!r}; accepted: finite numbers >= 0, scalar or (N,)")
        if not 0.0 <= self.noise_power < math.inf:
            raise ValueError(f"noise_power is {self.noise_power!r}; accepted: a finite number >= 0")
        if not 0.0 < self.bandwidth < math.inf:
            raise ValueError(f"bandwidth is {self.bandwidth!r}; accepted: a finite number of Hz > 0")
        if self.antennas < 1:
            raise ValueError(f"antennas is {self.antennas!r}; accepted: a whole number >= 1")
        object.__setattr__(self, "_grid", ResourceGrid(self.bandwidth, self.subbands, self.slots, self.slot_seconds))

    @property
    def grid(self) -> ResourceGrid:
        """The resource blocks of an exchange."""
        grid: ResourceGrid = vars(self)["_grid"]
        return grid

    def state(self, round: int, devices: ArrayLike, total: int, seed: int) -> ChannelState:
        """Gains and noise of one exchange.

        Parameters
        ----------
        round : int
            Number of the exchange, >= 0.
        devices : array of int, shape (K,)
            Ids of the devices that take part, each in 0..total-1.
        total : int
            N, all devices of the scenario.
        seed : int
            The run's seed.

        Raises
        ------
        ValueError
            Ids outside the scenario, or a ``power_gain`` of another length than ``total``.
        """
        ids = np.asarray(devices, dtype=np.int64)
        if ids.ndim != 1 or (ids < 0).any() or (ids >= total).any():
            raise ValueError(f"devices is {devices!r}; accepted: ids from 0 to {total - 1} in an array of shape (K,)")
        response = self._response(round, total, seed)
        wrong, noise_power = self.impairments, self.noise_power
        expected_noise = None
        if wrong.interference is not None:
            expected_noise = noise_power + wrong.interference.mean_power
            noise_power += wrong.interference.power(round, seed)
        if wrong.knowledge_is_perfect:
            blocks, estimates = response[:, ids], None
        else:
            mean_power = self.mean_power(round, total, seed)
            reckoned = self.noise_power if expected_noise is None else expected_noise
            estimates = wrong.known(response, mean_power, reckoned, round, seed)[:, ids]
            blocks = wrong.rotated(response, round, self.grid, seed)[:, ids]
        return ChannelState(link_gains(blocks), noise_power, blocks, estimates, expected_noise)

    def sample(self, count: int, total: int, seed: int) -> Real:
        """Gains |h| that the channel might have had, shape (count, N): what its statistics are learnt from."""
        return np.stack(list(self.draws(count, total, seed)))

    def draws(self, count: int, total: int, seed: int) -> Iterator[Real]:
        """The rows of :meth:`sample`, one after the other."""
        gain = np.sqrt(self._power_gains(total))
        for response in self.fading.sample(count, total, self.subbands, self.antennas, seed):
            yield gain * np.abs(link_gains(response))

    def positions(self, round: int, total: int, seed: int) -> Real | None:
        """Where devices are in a round, shape (N, 2), m, the receiver at 0; None where nothing places them.

        Raises
        ------
        ValueError
            `places` of another shape than (N, 2).
        """
        if self.places is None:
            return self.fading.positions(round, total, seed)
        places = np.asarray(self.places, dtype=np.float64)
        if places.shape != (total, 2):
            raise ValueError(f"places has shape {places.shape}; accepted: ({total}, 2), a point per device")
        return places

    def mean_power(self, round: int, total: int, seed: int) -> Real:
        """E|h|^2 of each device over small-scale fading, path loss and shadowing included, shape (N,)."""
        return np.asarray(self._power_gains(total) * self.fading.mean_power(round, total, seed))

    def unreachable(self, round: int, total: int, seed: int) -> NDArray[np.bool_]:
        """Devices that an exchange cannot reach at all, shape (N,): no order gets there, and nothing comes back."""
        reachable = self.availability.available(round, total, seed) & self.fading.reachable(round, total, seed)
        return np.asarray(~reachable)

    def pilots(self, devices: int, uses: int) -> Pilots:
        """What the pilots of an exchange cost: K devices, whose signals take so many real uses.

        Raises
        ------
        ValueError
            More pilots than a coherence frame holds.
        """
        estimation = self.impairments.estimation
        if estimation is None:
            return Pilots(0, 0.0)
        frames = 1
        if math.isfinite(self.impairments.frame_seconds):
            frame_uses = int(self.bandwidth * self.impairments.frame_seconds)
            frames = max(1, estimation.frames((uses + 1) // 2, frame_uses, devices, self.subbands))
        one = estimation.cost(devices, self.subbands, 1.0 / self.bandwidth if self.physical else 2.0)
        return Pilots(2 * frames * one.complex_uses, frames * one.energy)

    @property
    def mean_noise(self) -> float:
        """Noise power with the mean of the interference."""
        interference = self.impairments.interference
        return self.noise_power + (0.0 if interference is None else interference.mean_power)

    def _response(self, round: int, total: int, seed: int) -> Complex:
        """The channel of all devices, shape (S, N, M), without anything that is wrong with it."""
        fading = self.fading.response(round, total, self.subbands, self.antennas, seed)
        response = np.sqrt(self._power_gains(total))[:, None] * fading
        return response if self.slots == 1 else np.tile(response, (self.slots, 1, 1))

    def _power_gains(self, total: int) -> Real:
        gain = np.asarray(self.power_gain, dtype=np.float64)
        if gain.ndim == 1 and gain.shape != (total,):
            raise ValueError(f"power_gain has shape {gain.shape}; accepted: a scalar or ({total},), one per device")
        return np.broadcast_to(gain, (total,))

    def seconds(self, uses: int) -> float:
        """Air time of real channel uses, s: two ride on one complex use, uses / (2 bandwidth)."""
        return uses / (2.0 * self.bandwidth)

    def energy(self, amplitudes: ArrayLike, uses: int) -> Real:
        """Energy each device radiates, for symbols of unit mean square.

        Parameters
        ----------
        amplitudes : array, shape (K,)
            b_i.
        uses : int
            Real channel uses m.

        Returns
        -------
        ndarray, shape (K,)
            Physical: b^2 seconds(uses), J. Normalised: b^2 uses, in units of noise energy.
        """
        power = np.square(np.asarray(amplitudes, dtype=np.float64))
        return power * (self.seconds(uses) if self.physical else float(uses))
