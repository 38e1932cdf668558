"""One block of coded symbols on the air: what is settled before it is sent, and how well it was heard."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from channel.channel import ChannelState
from channel.codes import Code
from channel.uplinks.signal_path import Sent


@dataclass(frozen=True)
class Burst:
    """What is settled before devices send.

    Attributes
    ----------
    exchange : int
        From 1.
    seed : int
        Of the run.
    block : int
        Which of the vectors that the exchange carries.
    size : int
        d, entries of it.
    code, code_seed
        What it is coded with.
    uses : int
        m, real channel uses.
    state : ChannelState
        The exchange's channel.
    granted : float
        Limit on the power of a use in an exchange.
    limit : float
        The same in this one, which may use only a share of it, or more.
    """

    exchange: int
    seed: int
    block: int
    size: int
    code: Code
    code_seed: int
    uses: int
    state: ChannelState
    granted: float
    limit: float


@dataclass(frozen=True)
class HeardBurst:
    """What came of it.

    Attributes
    ----------
    burst : Burst
        What was settled.
    sent : Sent
        What devices radiated.
    received : Tensor, shape (m,)
        What went to the decoder.
    lost : int
        Pieces of the signal that did not come in.
    noise_variance : float
        Of an entry of `received`.
    update : Tensor, shape (d,), or None
        The mean as it was decoded; None if nobody was heard.
    """

    burst: Burst
    sent: Sent
    received: Tensor
    lost: int
    noise_variance: float
    update: Tensor | None

    def signal_energy(self) -> float:
        """Energy of the mean, as the server can tell it from what it received."""
        return max(0.0, float(self.received.square().mean()) - self.noise_variance) * self.entries

    @property
    def entries(self) -> float:
        """Of the update, that energy as received is spread over."""
        return len(self.received) / self.burst.code.expected_energy_ratio(self.burst.size)

    def known_error(self, predicted: float) -> float:
        """Expected squared error of an entry of the mean: power control's own figure, after decoding.

        The receiver knows no norm of the mean; what a code makes of it is reckoned from the power received. Infinite
        where the code knows no closed form: how much devices have left out is not to be heard.

        Parameters
        ----------
        predicted : float
            Mean squared error of a symbol that power control expects.
        """
        code, size = self.burst.code, self.burst.size
        misalignment = max(0.0, predicted - self.noise_variance) * self.entries
        signal = code.heard_energy(self.received, size, self.noise_variance)
        error = code.mean_squared_error(size, signal, misalignment, self.noise_variance) / size
        return math.inf if math.isnan(error) else error

    def aggregate_error(self, is_linear: bool) -> dict[str, float | None]:
        """Squared error of the received mean update, measured and as the code's closed form predicts it.

        Parameters
        ----------
        is_linear : bool
            Whether there is a closed form for what symbols went through.
        """
        air, code = self.sent.air, self.burst.code
        if air.mean is None or self.update is None:
            return {"mse_measured": None, "mse_predicted": None}
        signal, misalignment, varying = air.energies(code)
        predicted = code.mean_squared_error(len(air.mean), signal, misalignment, self.noise_variance, varying)
        return {
            "mse_measured": float((self.update - air.mean).square().sum()),
            "mse_predicted": predicted if is_linear and not math.isnan(predicted) else None,
        }
