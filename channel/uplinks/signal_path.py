"""What coded symbols go through between the devices' encoder and the server's decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.channel import ChannelState
from channel.codes import Code
from channel.impairments import ADC, Amplifier
from channel.mac import receive
from channel.randomness import generator
from channel.uplinks.alignment import Alignment
from channel.uplinks.norm_bound import BoundedCohort
from channel.uplinks.receiver import EmulatedReceiver, Receiver
from channel.uplinks.superposition import (
    Superposed,
    per_use,
    rotated,
    spread_scale,
    superpose_symbols,
    superpose_updates,
)
from channel.uplinks.uplink import Cohort

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Sent:
    """What devices radiate.

    Attributes
    ----------
    air : Superposed
        What the air sums.
    symbols : Tensor, shape (K, m), or None
        Of each device; None where they were not made one by one.
    radiated : float or ndarray, shape (K,)
        The power that symbols have, of what is granted to them.
    """

    air: Superposed
    symbols: Tensor | None = None
    radiated: float | Real = 1.0


@dataclass(frozen=True)
class SignalPath:
    """Amplifiers, the sum on the air, noise, antennas and their converters, and a burst of interference.

    Attributes
    ----------
    amplifier : Amplifier, optional
        Clips what devices send.
    adc : ADC, optional
        Rounds what each antenna receives.
    receiver : Receiver, optional
        Hears the air in place of the channel's model.
    erasure : float
        Fraction of the channel uses that is wiped out, in [0, 1).
    """

    amplifier: Amplifier | None = None
    adc: ADC | None = None
    receiver: Receiver | None = None
    erasure: float = 0.0

    @property
    def is_linear(self) -> bool:
        """Whether the error has the closed form: nothing is wiped out, clipped or rounded."""
        return not (self.erasure or self._device_by_device)

    @property
    def _device_by_device(self) -> bool:
        """Whether each device's symbols are needed, which takes one encoding a device."""
        return not (self.amplifier is None and self.adc is None and self.receiver is None)

    def send(self, cohort: Cohort, alignment: Alignment, code: Code, code_seed: int) -> Sent:
        """What devices radiate, summed up."""
        scale = spread_scale(code, cohort.size, cohort.norms)
        air = superpose_updates(cohort, alignment.received * scale, code, code_seed)
        radiated = cohort.powers if isinstance(cohort, BoundedCohort) else 1.0
        if not self._device_by_device:
            return Sent(air, radiated=radiated)
        symbols = cohort.symbols(code, code_seed).double()
        if self.amplifier is None:
            return Sent(air, symbols, radiated)
        clipped = self.amplifier.transmit(symbols)
        air = replace(air, coded=superpose_symbols(clipped, alignment.received))
        return Sent(air, clipped, clipped.square().mean(dim=1).numpy())

    def receive(
        self, sent: Sent, alignment: Alignment, state: ChannelState, noise: Real, draws: np.random.Generator
    ) -> tuple[Tensor, int]:
        """Noise on top, antenna by antenna where they are heard or converted one by one; and what the receiver lost.

        Parameters
        ----------
        sent : Sent
            What devices radiate.
        alignment : Alignment
            What they send with, and how antennas are combined and scaled.
        state : ChannelState
            The exchange's channel.
        noise : ndarray, shape (S,)
            Its power in each resource block after combining and scaling, per real use.
        draws : numpy.random.Generator
            For the noise.

        Returns
        -------
        Tensor of shape (m,)
            What goes to the decoder.
        int
            Pieces of the signal that did not come in.
        """
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

    def erase(self, received: Tensor, code: Code, seed: int) -> Tensor:
        """Zero in the burst that is wiped out, which the receiver knows: the same in every exchange of a run's seed."""
        wiped = round(self.erasure * len(received))
        if wiped == 0:
            return received
        start = int(generator(seed, "erasure").integers(len(received)))
        received = received.clone()
        if code.decoder == "unbiased":  # the others take what is missing for a shorter signal, which it is
            received *= len(received) / (len(received) - wiped)
        received[(start + np.arange(wiped)) % len(received)] = 0.0
        return received
