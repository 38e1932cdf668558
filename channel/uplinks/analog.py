"""Over-the-air aggregation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.channel import Channel, ChannelState, Pilots
from channel.codes import BlockLinearCode, Code
from channel.codes.symbol_scale import symbol_scale
from channel.impairments import ADC, Amplifier
from channel.ledger import Cost
from channel.mac import receive
from channel.memory import restore_into, state_of
from channel.order import TransmitOrder
from channel.power import BlockPlanner, Combining, Optimised, Planner, PowerControl
from channel.randomness import generator, key
from channel.uplinks.alignment import Alignment, align
from channel.uplinks.norm_bound import BoundedCohort, NormBound
from channel.uplinks.receiver import EmulatedReceiver, Receiver
from channel.uplinks.superposition import (
    Superposed,
    per_use,
    rotated,
    spread_scale,
    superpose_symbols,
    superpose_updates,
)
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
        if self.privacy is not None and not (bound is not None and bound.known and self._is_linear):
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
        code, size = self.code_at(exchange), cohort.size
        uses, code_seed = code.uses(size), self.order(exchange, seed).of_block(block).seed
        if self.norm_bound is not None:
            cohort = self.norm_bound.on(cohort, code, code_seed)
        state = self.channel.state(exchange, cohort.devices, cohort.total, seed)
        granted = self._power_limit(uses, exchange)
        limit = granted * energy_share
        self._learn(cohort, limit, seed)
        alignment = align(
            state,
            cohort.weights * cohort.norms / symbol_scale(code, size),
            cohort.weights,
            np.full(len(cohort.devices), limit),
            self.power_control,
            self.combining,
            cohort.devices,
        )
        alignment = alignment.without(cohort.norms == 0)
        if self.defiant:
            alignment = alignment.at_least(math.sqrt(limit), np.isin(cohort.devices, list(self.defiant)))
        if self.privacy is not None:
            alignment = self.privacy.protect(alignment, state, self.channel.noise_power, uses, limit)
        draws = generator(seed, "noise", exchange, *([block] if block else []))
        sent = self._send(cohort, alignment, code, code_seed)
        noise = alignment.receive_scales**2 * (state.noise_power + alignment.added_noise)
        noise_variance = float(noise.mean())
        received, lost = self._receive(sent, alignment, state, noise, draws)
        received = self._erase(received, code, seed)
        heard = bool(np.any(alignment.amplitudes > 0)) or not np.any(cohort.norms > 0)
        update = code.decode(received, size, code_seed, noise_variance) if heard else None

        amplitudes = alignment.mean_amplitudes
        record: dict[str, Any] = {
            "heard": heard,
            "receive_scale": float(alignment.receive_scales.mean()),
            "power_limit": limit,
            "noise_power": state.noise_power,
            "gains": np.abs(state.gains).tolist(),
            "amplitudes": amplitudes.tolist(),
            "signal_mse_measured": float((received - sent.air.wanted).square().mean()),
            "signal_mse_predicted": alignment.mse if self._is_linear else None,
        }
        if warnings := [*alignment.warnings, *self._plan_warnings(exchange)]:
            record["warnings"] = warnings
        record |= self._aggregate_error(sent.air, update, code, noise_variance)
        if self.trace:
            symbols = cohort.symbols(code, code_seed) if sent.symbols is None else sent.symbols
            record |= _transmit_statistics(symbols)
        pilots = self._pilots(len(cohort.devices), uses, block)
        radiated = self.channel.energy(amplitudes, uses) * sent.radiated
        if alignment.noise_powers is not None:
            radiated = radiated + self.channel.energy(np.sqrt(alignment.noise_powers), uses)
        if self.privacy is not None:
            record |= self.privacy.account(alignment, state, self.channel.noise_power, uses, cohort.devices)
        self._tell_plans(exchange, code, size, received, noise_variance, alignment, limit, radiated)
        cost = Cost(
            uses=uses + pilots.uses,
            energy=radiated + pilots.energy,
            air_time=self.channel.seconds(uses + pilots.uses),
            bits=CONTROL_BITS * len(cohort.devices),
        )
        if pilots.uses:
            record["pilot_uses"] = pilots.uses
        if self.receiver is not None:
            record["lost_blocks"] = lost
        return Reception(
            update,
            cost,
            record,
            noise_variance=self._known_error(received, code, size, alignment.mse, noise_variance),
            snr=_ratio(granted * float(np.mean(np.abs(state.gains) ** 2)), state.noise_power),
        )

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
    def _is_linear(self) -> bool:
        """Whether the error has the closed form: nothing is wiped out, clipped or rounded."""
        return not (self.erasure or self.amplifier or self.adc or self.receiver)

    def _send(self, cohort: Cohort, alignment: Alignment, code: Code, code_seed: int) -> _Sent:
        """What devices radiate, summed up."""
        scale = spread_scale(code, cohort.size, cohort.norms)
        air = superpose_updates(cohort, alignment.received * scale, code, code_seed)
        radiated = cohort.powers if isinstance(cohort, BoundedCohort) else 1.0
        if self.amplifier is None and self.adc is None and self.receiver is None:
            return _Sent(air, radiated=radiated)
        symbols = cohort.symbols(code, code_seed).double()
        if self.amplifier is None:
            return _Sent(air, symbols, radiated)
        clipped = self.amplifier.transmit(symbols)
        air = replace(air, coded=superpose_symbols(clipped, alignment.received))
        return _Sent(air, clipped, clipped.square().mean(dim=1).numpy())

    def _receive(
        self, sent: _Sent, alignment: Alignment, state: ChannelState, noise: Real, draws: np.random.Generator
    ) -> tuple[Tensor, int]:
        """Noise on top, antenna by antenna where they are heard or converted one by one; and what the receiver lost."""
        if self.adc is None and self.receiver is None:
            power = per_use(noise, len(sent.air.coded)) if len(noise) > 1 else noise[0]
            return receive(sent.air.coded, power, draws), 0
        assert sent.symbols is not None
        uses, arriving = sent.symbols.shape[1], alignment.turned * alignment.amplitudes[:, :, None]
        combined = torch.zeros(uses, dtype=torch.float64)
        heard = (self.receiver or EmulatedReceiver()).receive(sent.symbols, arriving, state.noise_power, draws)
        for antenna, samples in enumerate(heard.samples):
            converted = samples if self.adc is None else self.adc.receive(samples)
            weight = alignment.receive_scales * alignment.combiners[:, antenna].conj()
            combined += per_use(weight.real, uses) * converted + per_use(weight.imag, uses) * rotated(converted)
        return combined, heard.lost

    def _tell_plans(
        self,
        exchange: int,
        code: Code,
        size: int,
        received: Tensor,
        noise_variance: float,
        alignment: Alignment,
        limit: float,
        radiated: Real,
    ) -> None:
        """Let plans know what the server knows: norms of the mean, and the energy at unit receive scale."""
        if not np.any(alignment.amplitudes > 0):
            return
        if self.plan is not None:
            entries = len(received) / code.expected_energy_ratio(size)
            signal = max(0.0, float(received.square().mean()) - noise_variance) * entries
            needed = entries * float(np.mean(alignment.receive_scales**2)) * limit
            granted = self.plan.grant(exchange - 1)[1]
            self.plan.observe(exchange - 1, math.sqrt(signal), needed, min(granted, float(radiated.max())))
        if isinstance(code, BlockLinearCode) and self.block_plan is not None:
            self.block_plan.observe(exchange, code.energies(received, noise_variance))

    def _known_error(self, received: Tensor, code: Code, size: int, predicted: float, noise_variance: float) -> float:
        """Expected squared error of an entry of the mean: power control's own figure, after decoding.

        The receiver knows no norm of the mean; what a code makes of it is reckoned from the power received. Infinite
        where the code knows no closed form: how much devices have left out is not to be heard.
        """
        entries = len(received) / code.expected_energy_ratio(size)
        misalignment = max(0.0, predicted - noise_variance) * entries
        signal = code.heard_energy(received, size, noise_variance)
        error = code.mean_squared_error(size, signal, misalignment, noise_variance) / size
        return math.inf if math.isnan(error) else error

    def _power_limit(self, uses: int, exchange: int | None = None) -> float:
        """P; of an exchange with a plan what its energy comes to."""
        energy = self.energy_per_round
        if self.plan is not None and exchange is not None:
            energy = self.plan.grant(exchange - 1)[1]
        return power_of(self.channel, self.power_limit, energy, uses)

    def _erase(self, received: Tensor, code: Code, seed: int) -> Tensor:
        wiped = round(self.erasure * len(received))
        if wiped == 0:
            return received
        start = int(generator(seed, "erasure").integers(len(received)))
        received = received.clone()
        if code.decoder == "unbiased":  # the others take what is missing for a shorter signal, which it is
            received *= len(received) / (len(received) - wiped)
        received[(start + np.arange(wiped)) % len(received)] = 0.0
        return received

    def _aggregate_error(
        self, air: Superposed, update: Tensor | None, code: Code, noise_variance: float
    ) -> dict[str, float | None]:
        """Squared error of the received mean update, measured and as the code's closed form predicts it."""
        if air.mean is None or update is None:
            return {"mse_measured": None, "mse_predicted": None}
        signal, misalignment, varying = air.energies(code)
        predicted = code.mean_squared_error(len(air.mean), signal, misalignment, noise_variance, varying)
        return {
            "mse_measured": float((update - air.mean).square().sum()),
            "mse_predicted": predicted if self._is_linear and not math.isnan(predicted) else None,
        }


def _ratio(signal: float, noise: float) -> float:
    return signal / noise if noise > 0 else math.inf


@dataclass(frozen=True)
class _Sent:
    """What the air sums, the symbols it is of where they were made one by one, and the power they have of the limit."""

    air: Superposed
    symbols: Tensor | None = None
    radiated: float | Real = 1.0


def _transmit_statistics(symbols: Tensor) -> dict[str, float]:
    """Peak-to-average power (dB) and energy of the devices' symbol blocks, relative to one unit a use."""
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
