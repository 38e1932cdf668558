"""A cell of TR 38.901 as a source of gains: devices that walk, their large-scale states, and their fading."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from channel.fading import Complex, Fading, Real
from channel.randomness import generator, key
from channel.three_gpp.drop import Drop, Site, draw
from channel.three_gpp.environments import ENVIRONMENTS, default_hall
from channel.three_gpp.frequency import subband_centres
from channel.three_gpp.recent import Recent
from channel.three_gpp.seeding import require_sionna
from channel.three_gpp.walk import Area, Walk

Bools = NDArray[np.bool_]
TOGETHER = 1000
"""Devices whose large-scale parameters are drawn jointly; the correlation matrices grow with the square."""


class ThreeGPPCell(Fading):
    r"""One cell of TR 38.901 (system level, clause 7.5), uplink gains in absolute units.

    :math:`h_{s,i,m} = \sqrt{\beta_i}\sum_p a_{p,m} e^{-j 2\pi f_s\tau_p}`, with path loss, shadowing and penetration in
    beta, the rays of up to 25 clusters and the line of sight in a and tau, and f_s the centre of subband s. Multiply by
    no other path loss: ``Channel.power_gain`` is 1. Delays count from a device's first ray, as timing advance has it.
    All antennas are vertical without pattern; the base station's form a panel of half a wavelength's spacing, as near
    to a square as their number allows, that faces along x. Uplink and downlink are the same, by reciprocity.

    **Large-scale state.** Line of sight, shadowing, spreads, clusters and rays are drawn by Sionna. They hold for an
    epoch, the whole rounds in which a device moves up to the environment's correlation distance (6 to 37 m); the next
    has states of its own, at the places then reached. Up to 1,000 devices are drawn jointly, those near each other
    correlated.

    **Mobility.** Devices walk to and fro on straight streets (:class:`~channel.three_gpp.walk.Walk`) at one speed.
    Within an epoch rays stay, and their phases turn by their Doppler shifts times ``round_s`` from round to round.
    At speed 0 nothing moves in the room either: the channel is the same in every round of a run.

    Parameters
    ----------
    kind : str
        A name of :data:`~channel.three_gpp.environments.ENVIRONMENTS`: umi, uma, rma, inh, inf.
    carrier_ghz : float
        0.5 to 100, to 30 for rma.
    bandwidth_hz : float
        Divided among the subbands, Hz.
    cell_radius_m : float, optional
        Not for inh, inf. Default: from the standard's distance between sites, 115, 289 and 1000 m.
    minimum_distance_m : float, optional
        In the plane. Default: the standard's.
    hall_m : tuple of float, optional
        Length, width and height for inh and inf. Default: the standard's.
    variant : str, optional
        "open" or "mixed" office; factory of sparse or dense clutter with high or low base station, "SH", "DH", "SL",
        "DL".
    speed_kmh : float
        Of every device.
    round_s : float
        Seconds from one exchange to the next.
    indoor_share : float
        Probability of a device being in a building, for umi, uma, rma; 0 in a hall.
    o2i_model : str
        "low" or "high" penetration loss; below 6 GHz they are the same, and rma has "low" only.
    shadowing : bool
        False leaves shadow fading out.

    Raises
    ------
    ValueError
        A parameter outside the above.
    ImportError
        Sionna is not installed.
    """

    name: ClassVar[str] = "3gpp"

    def __init__(
        self,
        kind: str = "umi",
        *,
        carrier_ghz: float = 3.5,
        bandwidth_hz: float = 5e6,
        cell_radius_m: float | None = None,
        minimum_distance_m: float | None = None,
        hall_m: tuple[float, float, float] | None = None,
        variant: str | None = None,
        speed_kmh: float = 3.0,
        round_s: float = 1.0,
        indoor_share: float = 0.0,
        o2i_model: str = "low",
        shadowing: bool = True,
    ) -> None:
        if kind not in ENVIRONMENTS:
            raise ValueError(f"kind is {kind!r}; accepted: {', '.join(ENVIRONMENTS)}")
        environment = ENVIRONMENTS[kind]
        _between("carrier_ghz", carrier_ghz, 0.5, environment.highest_carrier_ghz)
        _between("speed_kmh", speed_kmh, 0.0, 1000.0)
        _between("indoor_share", indoor_share, 0.0, 0.0 if environment.cell_radius is None else 1.0)
        for name, value in (("bandwidth_hz", bandwidth_hz), ("round_s", round_s)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}; accepted: a finite number > 0")
        models = ("low",) if kind == "rma" else ("low", "high")
        if o2i_model not in models:
            raise ValueError(f"o2i_model is {o2i_model!r}; accepted for {kind}: {', '.join(models)}")
        if variant is None:
            variant = environment.variants[0] if environment.variants else None
        elif variant not in environment.variants:
            accepted = ", ".join(environment.variants) or "none"
            raise ValueError(f"variant is {variant!r}; accepted for {kind}: {accepted}")
        require_sionna()
        self.kind, self.variant, self.carrier_ghz, self.bandwidth_hz = kind, variant, carrier_ghz, bandwidth_hz
        self.speed_kmh, self.round_s, self.indoor_share = speed_kmh, round_s, indoor_share
        self.o2i_model, self.shadowing = o2i_model, shadowing
        self.hall_m = _hall(kind, variant, hall_m)
        self._walk = Walk(_area(kind, self.hall_m, cell_radius_m, minimum_distance_m), speed_kmh / 3.6)
        self.cell_radius_m, self.minimum_distance_m = self._walk.area.radius, self._walk.area.minimum_distance
        self._site = Site(
            kind, variant, carrier_ghz * 1e9, environment.device_height, self.hall_m, o2i_model, shadowing
        )
        # Outdated knowledge asks for the round before beside each round.
        self._drops: Recent[tuple[int, int, int], list[Drop]] = Recent(2)
        self._phases: Recent[tuple[int, int, int], list[Real]] = Recent(2)
        self._responses: Recent[tuple[int, ...], Complex] = Recent(2)

    @property
    def rounds_per_epoch(self) -> int | None:
        """Rounds that share a large-scale state; None if nothing moves and all do."""
        if self.speed_kmh == 0.0:
            return None
        return max(1, int(ENVIRONMENTS[self.kind].correlation_distance / (self._walk.speed * self.round_s)))

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """Gains at the carrier and one antenna, shape (N,)."""
        return self.response(round, devices, 1, 1, seed)[0, :, 0]

    def response(self, round: int, devices: int, subbands: int, antennas: int, seed: int) -> Complex:
        """Gains at the centres of S subbands and M antennas, path loss and shadowing included, shape (S, N, M)."""
        asked = (seed, devices, round, subbands, antennas)
        return self._responses.get(asked, lambda: self._response(*asked)).copy()

    def sample(self, count: int, devices: int, subbands: int, antennas: int, seed: int) -> Iterator[Complex]:
        """Responses of the run's first large-scale state with other phases: its fast fading, devices where they are."""
        frequencies = subband_centres(self.bandwidth_hz, subbands)
        for number in range(count):
            yield np.concatenate(
                [
                    drop.rays.response(
                        _uniform_phases(key(seed, "statistics"), number, group, drop), 0.0, frequencies, antennas
                    )
                    for group, drop in enumerate(self._epoch(0, devices, seed))
                ],
                axis=1,
            )

    def mean_power(self, round: int, devices: int, seed: int) -> Real:
        """Path gain with shadowing and penetration, E|h|^2 over the phases of the rays, shape (N,)."""
        return np.concatenate([drop.rays.power for drop in self._epoch(round, devices, seed)])

    def line_of_sight(self, round: int, devices: int, seed: int) -> Bools:
        """Who sees the base station, shape (N,)."""
        return np.concatenate([drop.line_of_sight for drop in self._epoch(round, devices, seed)])

    def positions(self, round: int, devices: int, seed: int) -> Real:
        """Places in the plane, the base station at 0, shape (N, 2), m."""
        return self._walk.at(round * self.round_s, devices, seed)[0]

    def indoors(self, devices: int, seed: int) -> Bools:
        """Who is in a building for the whole run, shape (N,); in a hall nobody is in another."""
        return generator(seed, "3gpp/indoors").random(devices) < self.indoor_share

    def _start(self, round: int) -> tuple[int, int]:
        """Number of a round's epoch, and its first round."""
        length = self.rounds_per_epoch
        return (0, 0) if length is None else (round // length, round - round % length)

    def _epoch(self, round: int, devices: int, seed: int) -> list[Drop]:
        number, first = self._start(round)
        return self._drops.get((seed, devices, number), lambda: self._drop(number, first, devices, seed))

    def _drop(self, number: int, first: int, devices: int, seed: int) -> list[Drop]:
        points, velocities = self._walk.at(first * self.round_s, devices, seed)
        indoors = self.indoors(devices, seed)
        groups = [slice(start, start + TOGETHER) for start in range(0, devices, TOGETHER)]
        return [
            draw(self._site, points[some], velocities[some], indoors[some], key(seed, "sionna", number, group))
            for group, some in enumerate(groups)
        ]

    def _response(self, seed: int, devices: int, round: int, subbands: int, antennas: int) -> Complex:
        number, first = self._start(round)
        drops = self._epoch(round, devices, seed)
        phases = self._phases.get(
            (seed, devices, number),
            lambda: [_uniform_phases(seed, number, group, drop) for group, drop in enumerate(drops)],
        )
        # At speed 0 rounds share an epoch for ever, and time changes nothing.
        seconds = (round - first) * self.round_s if self.speed_kmh > 0.0 else 0.0
        frequencies = subband_centres(self.bandwidth_hz, subbands)
        gains = [
            drop.rays.response(phase, seconds, frequencies, antennas) for drop, phase in zip(drops, phases, strict=True)
        ]
        return np.concatenate(gains, axis=1)


def _uniform_phases(seed: int, number: int, group: int, drop: Drop) -> Real:
    """Step 10: initial phases of all rays."""
    return generator(seed, "3gpp/phases", number, group).uniform(-np.pi, np.pi, drop.rays.doppler.shape)


def _hall(
    kind: str, variant: str | None, given: tuple[float, float, float] | None
) -> tuple[float, float, float] | None:
    usual = default_hall(kind, variant)
    if given is None:
        return usual
    if usual is None:
        raise ValueError(f"hall_m is {given!r}; accepted for {kind}: none, it has a cell_radius_m")
    if len(given) != 3 or not all(0.0 < side < math.inf for side in given):
        raise ValueError(f"hall_m is {given!r}; accepted: length, width and height > 0, m")
    length, width, height = given
    return length, width, height


def _area(kind: str, hall: tuple[float, float, float] | None, radius: float | None, minimum: float | None) -> Area:
    environment = ENVIRONMENTS[kind]
    minimum = environment.minimum_distance if minimum is None else minimum
    _between("minimum_distance_m", minimum, environment.shortest, environment.longest)
    if hall is not None:
        if radius is not None:
            raise ValueError(f"cell_radius_m is {radius!r}; accepted for {kind}: none, it has hall_m")
        area = Area(minimum, sides=hall[:2])
    else:
        area = Area(minimum, radius=environment.cell_radius if radius is None else radius)
    field = "hall_m" if hall is not None else "cell_radius_m"
    if not minimum < area.reach <= environment.longest:
        raise ValueError(
            f"{field} is {hall if hall is not None else area.radius!r}, which reaches {area.reach:.6g} m; accepted for "
            f"{kind}: more than minimum_distance_m = {minimum!r}, up to {environment.longest:g} m"
        )
    return area


def _between(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value!r}; accepted: {lowest:g} to {highest:g}")
