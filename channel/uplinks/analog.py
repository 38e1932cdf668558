"""Over-the-air aggregation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from channel.channel import Channel, Pilots
from channel.codes import BlockLinearCode, Code
from channel.codes.symbol_scale import symbol_scale
from channel.impairments import ADC, Amplifier
from channel.ledger import Cost
from channel.memory import restore_into, state_of
from channel.order import TransmitOrder
from channel.power import BlockPlanner, Combining, Optimised, Planner, PowerControl
from channel.randomness import generator, key
from channel.uplinks.alignment import Alignment, align
from channel.uplinks.burst import Burst, HeardBurst
from channel.uplinks.norm_bound import NormBound
from channel.uplinks.receiver import Receiver
from channel.uplinks.signal_path import Sent, SignalPath
from channel.uplinks.transmit_statistics import amplifier_statistics, transmit_statistics
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

if TYPE_CHECKING:
    from channel.privacy import Privacy

Real = NDArray[np.float64]

STATISTICS = 400
"""Channel states that a power control learns its statistics from."""


@dataclass
class AnalogUplink(MeanUplink):
    r"""Over-the-air aggregation: coded updates add up in the multiple-access channel.

    Device i sends unit-power symbols :math:`s_i = \sqrt n A x_i / \|x_i\|` of its update, or of the part of it that the
    code sends, with amplitude :math:`b_i`; the server
    receives :math:`y = \sum_i |h_i| b_i s_i + z`, scales by a and decodes. The target is
    :math:`\sum_i w'_i s_i` with :math:`w'_i = w_i \|x_i\| / \sqrt n`, so power control works on the weights
    :math:`w'_i` and its mean squared error is that of one coded coordinate of the mean update.

    Parameters
    ----------
    code : Code
        Analog code A.
    power_control : PowerControl
        Chooses b_i and a from gains, weights and limits.
    channel : Channel
        Gains and noise of each exchange.
    power_limit : float, optional
        Limit P on :math:`b_i^2`, the power averaged over the code (W, or normalised); 1 if neither limit is given.
    energy_per_round : float, optional
        Limit on the energy of one exchange, from which P follows; not together with `power_limit`.
    erasure : float, default 0
        Fraction of the channel uses that interference wipes out: the same contiguous burst of uses in every
        exchange. The receiver knows which and reads zero there; an unbiased decoder scales the rest up.
    trace : bool, default False
        Record each device's peak-to-average power and energy (codes every device on its own: slower).
    combining : Combining
        What the receiver makes of several antennas.
    amplifier : Amplifier, optional
        Clips what devices send; codes every device on its own.
    adc : ADC, optional
        Rounds what each antenna receives; codes every device on its own.
    plan : Planner, optional
        Grants each exchange its channel uses and its energy, in place of the code's and of the limits; one exchange a
        round.
    block_plan : BlockPlanner, optional
        Shares an exchange's channel uses out over the blocks of the update; with the unbiased random linear code.
    norm_bound : NormBound, optional
        What is taken from a device at most, whatever norm it says; with a linear code.
    privacy : Privacy, optional
        Accounts for what each exchange tells of a device; with a norm bound that is known.
    defiant : frozenset of int
        Devices that send at the power limit, whatever is granted to them.
    receiver : Receiver, optional
        Through which the server hears the air; codes every device on its own. The channel's model if not given.

    References
    ----------
    M. M. Amiri, D. Gündüz, "Machine learning at the wireless edge", IEEE Trans. Signal Process. 68, 2020 (sending
    normalised, compressed gradients); X. Cao et al., "Optimized power control for over-the-air computation in fading
    channels", IEEE Trans. Wireless Commun. 19, 2020 (the power control problem).
    """

    code: Code
    power_control: PowerControl
    channel: Channel = field(default_factory=Channel)
    power_limit: float | None = None
    energy_per_round: float | None = None
    erasure: float = 0.0
    trace: bool = False
    combining: Combining = field(default_factory=Optimised)
    amplifier: Amplifier | None = None
    adc: ADC | None = None
    plan: Planner | None = None
    block_plan: BlockPlanner | None = None
    norm_bound: NormBound | None = None
    privacy: Privacy | None = None
    defiant: frozenset[int] = frozenset()
    receiver: Receiver | None = None

    def __post_init__(self) -> None:
        check_one_limit("AnalogUplink", self.power_limit, self.energy_per_round)
        if not 0 <= self.erasure < 1:
            raise ValueError(f"AnalogUplink: erasure must be in [0, 1), got {self.erasure}")
        if not self.code.coherent:
            raise ValueError(
                f"AnalogUplink: {self.code.name} is not of this uplink; accepted: NonCoherentUplink with it"
            )
        if self.block_plan is not None and (self.code.name, self.code.decoder) != ("random-linear", "unbiased"):
            raise ValueError(
                f"AnalogUplink: block_plan shares out the uses of {self.code.name} with decoder={self.code.decoder!r}; "
                "accepted: random-linear with decoder='unbiased'"
            )
        self._check_bound()
        self._learnt: tuple[int, int] | None = None

    def _check_bound(self) -> None:
        bound = self.norm_bound
        if bound is not None and (not self.code.linear or self.code.error_feedback):
            raise ValueError(
                f"AnalogUplink: norm_bound with {self.code!r}, whose norms are not those of updates; accepted: a "
                "linear code without error feedback"
            )
        if self.privacy is not None and not (bound is not None and bound.known and self._path.is_linear):
            raise ValueError(
                "AnalogUplink: privacy is accounted for with a norm bound that is known, and without erasure, "
                f"amplifier, adc and receiver; got norm_bound={bound}, erasure={self.erasure}, "
                f"amplifier={self.amplifier}, adc={self.adc}, receiver={self.receiver}"
            )

    def order(self, exchange: int, seed: int) -> TransmitOrder:
        """The code under this exchange's own seed."""
        code = self.code_at(exchange)
        return TransmitOrder(code.name, code.parameters, key(seed, "code", exchange))

    def code_at(self, exchange: int) -> Code:
        """The code of an exchange: of as many channel uses as the plan grants it, each block with its own."""
        code = self.code if self.plan is None else self.code.with_uses(self.plan.grant(exchange - 1)[0])
        if self.block_plan is None:
            return code
        shared = self.block_plan.grant(exchange, code.uses(self.block_plan.size))
        return BlockLinearCode(self.block_plan.sizes, shared)

    def grant(self, size: int) -> Grant:
        """The code's channel uses, and the energy of a device at its limit; of a plan the mean over its rounds."""
        uses = self.code.uses(size)
        if self.energy_per_round is not None:
            return Grant(uses, self.energy_per_round)
        return Grant(uses, float(self.channel.energy(np.sqrt([self._power_limit(uses)]), uses)[0]))

    def receive(self, cohort: Cohort, exchange: int, seed: int, block: int = 0, energy_share: float = 1.0) -> Reception:
        """Power control, superposition, noise, decoding."""
        check_share(energy_share)
        burst = self._burst(cohort, exchange, seed, block, energy_share)
        if self.norm_bound is not None:
            cohort = self.norm_bound.on(cohort, burst.code, burst.code_seed)
        self._learn(cohort, burst.limit, seed)
        alignment = self._align(cohort, burst)
        heard = self._hear(cohort, alignment, burst)
        pilots = self._pilots(len(cohort.devices), burst.uses, block)
        radiated = self._radiated(alignment, heard.sent, burst.uses)
        record = self._record(cohort, alignment, burst, heard)
        if pilots.uses:
            record["pilot_uses"] = pilots.uses
        if self.receiver is not None:
            record["lost_blocks"] = heard.lost
        self._tell_plans(burst, heard, alignment, radiated)
        cost = Cost(
            uses=burst.uses + pilots.uses,
            energy=radiated + pilots.energy,
            air_time=self.channel.seconds(burst.uses + pilots.uses),
            bits=CONTROL_BITS * len(cohort.devices),
        )
        return Reception(
            heard.update,
            cost,
            record,
            noise_variance=heard.known_error(alignment.mse),
            snr=_ratio(burst.granted * float(np.mean(np.abs(burst.state.gains) ** 2)), burst.state.noise_power),
        )

    def _burst(self, cohort: Cohort, exchange: int, seed: int, block: int, energy_share: float) -> Burst:
        """The code, the channel and the power limit of a block of an exchange."""
        code = self.code_at(exchange)
        uses = code.uses(cohort.size)
        granted = self._power_limit(uses, exchange)
        return Burst(
            exchange=exchange,
            seed=seed,
            block=block,
            size=cohort.size,
            code=code,
            code_seed=self.order(exchange, seed).of_block(block).seed,
            uses=uses,
            state=self.channel.state(exchange, cohort.devices, cohort.total, seed),
            granted=granted,
            limit=granted * energy_share,
        )

    def _align(self, cohort: Cohort, burst: Burst) -> Alignment:
        """Power control, and what devices send other than it says: nothing, defiance, noise for privacy."""
        alignment = align(
            burst.state,
            cohort.weights * cohort.norms / symbol_scale(burst.code, burst.size),
            cohort.weights,
            np.full(len(cohort.devices), burst.limit),
            self.power_control,
            self.combining,
            cohort.devices,
        )
        alignment = alignment.without(cohort.norms == 0)
        if self.defiant:
            alignment = alignment.at_least(math.sqrt(burst.limit), np.isin(cohort.devices, list(self.defiant)))
        if self.privacy is not None:
            alignment = self.privacy.protect(alignment, burst.state, self.channel.noise_power, burst.uses, burst.limit)
        return alignment

    def _hear(self, cohort: Cohort, alignment: Alignment, burst: Burst) -> HeardBurst:
        """Superposition, noise, decoding."""
        draws = generator(burst.seed, "noise", burst.exchange, *([burst.block] if burst.block else []))
        sent = self._path.send(cohort, alignment, burst.code, burst.code_seed)
        noise = alignment.receive_scales**2 * (burst.state.noise_power + alignment.added_noise)
        noise_variance = float(noise.mean())
        received, lost = self._path.receive(sent, alignment, burst.state, noise, draws)
        received = self._path.erase(received, burst.code, burst.seed)
        update = None
        if np.any(alignment.amplitudes > 0) or not np.any(cohort.norms > 0):
            update = burst.code.decode(received, burst.size, burst.code_seed, noise_variance)
        return HeardBurst(burst, sent, received, lost, noise_variance, update)

    def _record(self, cohort: Cohort, alignment: Alignment, burst: Burst, heard: HeardBurst) -> dict[str, Any]:
        """Figures for the run's record."""
        record: dict[str, Any] = {
            "heard": heard.update is not None,
            "receive_scale": float(alignment.receive_scales.mean()),
            "power_limit": burst.limit,
            "noise_power": burst.state.noise_power,
            "gains": np.abs(burst.state.gains).tolist(),
            "amplitudes": alignment.mean_amplitudes.tolist(),
            "signal_mse_measured": float((heard.received - heard.sent.air.wanted).square().mean()),
            "signal_mse_predicted": alignment.mse if self._path.is_linear else None,
        }
        if warnings := [*alignment.warnings, *self._plan_warnings(burst.exchange)]:
            record["warnings"] = warnings
        record |= heard.aggregate_error(self._path.is_linear)
        if self.trace:
            symbols = cohort.symbols(burst.code, burst.code_seed)
            record |= transmit_statistics(symbols)
            if self.amplifier is not None:
                record |= amplifier_statistics(self.amplifier, symbols)
        if self.privacy is not None:
            noise_power = self.channel.noise_power
            record |= self.privacy.account(alignment, burst.state, noise_power, burst.uses, cohort.devices)
        return record

    def _radiated(self, alignment: Alignment, sent: Sent, uses: int) -> Real:
        """Energies of the symbols, and of the noise that devices add, (K,)."""
        radiated = self.channel.energy(alignment.mean_amplitudes, uses) * sent.radiated
        if alignment.noise_powers is not None:
            radiated = radiated + self.channel.energy(np.sqrt(alignment.noise_powers), uses)
        return radiated

    def _pilots(self, devices: int, uses: int, block: int) -> Pilots:
        """Of an exchange in one coherence frame the first block's are those of all."""
        if block and math.isinf(self.channel.impairments.frame_seconds):
            return Pilots(0, 0.0)
        return self.channel.pilots(devices, uses)

    def _plan_warnings(self, exchange: int) -> list[str]:
        """What the plan had to do without when it was made for this exchange."""
        made_for = f"round {exchange - 1}:"
        return [] if self.plan is None else [said for said in self.plan.warnings if said.startswith(made_for)]

    def _learn(self, cohort: Cohort, limit: float, seed: int) -> None:
        """Let a power control that goes by the channel's statistics see them, once a run."""
        if not self.power_control.needs_statistics or self._learnt == (seed, cohort.total):
            return
        samples = self.channel.sample(STATISTICS, cohort.total, seed)
        weights = np.full(cohort.total, 1.0 / cohort.total)
        self.power_control.learn(samples, np.full(cohort.total, limit), self.channel.mean_noise, weights)
        self._learnt = (seed, cohort.total)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs: what power control and plans remember."""
        return {
            "learnt": None if self._learnt is None else list(self._learnt),
            "power_control": state_of(self.power_control),
            "plan": state_of(self.plan),
            "block_plan": state_of(self.block_plan),
            "privacy": state_of(self.privacy),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state` of an uplink with the same parts."""
        learnt = state["learnt"]
        self._learnt = None if learnt is None else (int(learnt[0]), int(learnt[1]))
        restore_into(self.power_control, state["power_control"])
        restore_into(self.privacy, state["privacy"])
        restore_into(self.plan, state["plan"])
        restore_into(self.block_plan, state["block_plan"])

    @property
    def _path(self) -> SignalPath:
        """What symbols go through."""
        return SignalPath(self.amplifier, self.adc, self.receiver, self.erasure)

    def _tell_plans(self, burst: Burst, heard: HeardBurst, alignment: Alignment, radiated: Real) -> None:
        """Let plans know what the server knows: norms of the mean, and the energy at unit receive scale."""
        if not np.any(alignment.amplitudes > 0):
            return
        if self.plan is not None:
            needed = heard.entries * float(np.mean(alignment.receive_scales**2)) * burst.limit
            granted = self.plan.grant(burst.exchange - 1)[1]
            norm, spent = math.sqrt(heard.signal_energy()), min(granted, float(radiated.max()))
            self.plan.observe(burst.exchange - 1, norm, needed, spent)
        if isinstance(burst.code, BlockLinearCode) and self.block_plan is not None:
            self.block_plan.observe(burst.exchange, burst.code.energies(heard.received, heard.noise_variance))

    def _power_limit(self, uses: int, exchange: int | None = None) -> float:
        """P; of an exchange with a plan what its energy comes to."""
        energy = self.energy_per_round
        if self.plan is not None and exchange is not None:
            energy = self.plan.grant(exchange - 1)[1]
        return power_of(self.channel, self.power_limit, energy, uses)


def _ratio(signal: float, noise: float) -> float:
    return signal / noise if noise > 0 else math.inf
