"""Cohorts: the devices that send in one exchange, from messages or trained in place."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from channel.codes import Code
from channel.codes.symbol_scale import symbol_scale
from channel.order import SYMBOLS_KEY
from channel.records import records_in
from channel.uplinks import Cohort
from strategies.received import (
    LARGEST_NORM,
    Metrics,
    check_finite,
    read_array,
    read_norm,
    read_weight,
    said_of_transmission,
)
from strategies.refusal import BadPayload, Failure, shown
from strategies.trust import Trust

__all__ = [
    "BadPayload",
    "Cohort",
    "CohortGrid",
    "Failure",
    "Gathered",
    "MessageCohort",
    "Metrics",
    "read_symbols",
    "read_weight",
]

BELIEVING = Trust()
"""What is believed where nobody says."""

ROUNDING = 1e-3
"""Of the energy of symbols in single precision, relative: thousands of additions at 6e-8 each."""


@dataclass
class Gathered:
    """The outcome of asking devices to train.

    Parameters
    ----------
    cohort : Cohort or None
        The devices that send; None if there are none.
    metrics : list of mapping
        Each sender's own metrics, in the cohort's order.
    failures : list of Failure
        The others.
    seconds : list of float or None
        How long each sender computed, in the cohort's order; None where it does not say.
    joules : list of float or None
        What that took by each sender's own estimate; empty where nobody is asked.
    """

    cohort: Cohort | None
    metrics: list[Metrics]
    failures: list[Failure] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)


class CohortGrid(Grid):
    """A Grid that can train devices in place and hand over their updates without messages."""

    @abstractmethod
    def train_cohort(
        self, messages: list[Message], weighted_by_key: str, keep_updates: bool, trust: Trust = BELIEVING
    ) -> Gathered:
        """Train the devices the messages are addressed to.

        Parameters
        ----------
        messages : list of Message
            One for each device, all carrying the same model.
        weighted_by_key : str
            Metric that holds a device's aggregation weight.
        keep_updates : bool
            Whether gains other than the weights will be asked for; if not, updates are added up as they come and
            memory does not grow with the number of devices.
        trust : Trust
            How long updates may be; whose is longer fails, as by message. Weights are as devices say, adding up to 1.
        """


@dataclass
class MessageCohort:
    """A cohort of devices whose coded symbols came as messages; implements :class:`channel.uplinks.Cohort`."""

    devices: NDArray[np.int64]
    weights: NDArray[np.float64]
    norms: NDArray[np.float64]
    size: int
    total: int
    blocks: Tensor
    scale: float

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        """None: the server never sees a plain update."""
        return None

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        """Superpositions of the coded updates ``A x_i = symbols_i * norm_i / scale``."""
        return torch.from_numpy(gains * self.norms / self.scale) @ self.blocks.double()

    def symbols(self, code: Code, seed: int) -> Tensor:
        """The symbols as they came."""
        return self.blocks


def read_symbols(
    message: Message, code: Code, size: int, block: str | None = None, largest_norm: float = LARGEST_NORM
) -> tuple[NDArray[np.floating], float]:
    r"""Symbols and norm from a device's reply, checked before they may touch the sum; of one of its vectors by name.

    Symbols are :math:`s = \sqrt n A x / \|x\|`, so that :math:`\|s\|^2 \le n \|A\|^2`
    (:meth:`channel.codes.Code.largest_energy_ratio`): what is beyond has more power than any update, and than the
    device's amplifier would radiate.

    Parameters
    ----------
    message : Message
        The reply.
    code : Code
        What the symbols are of.
    size : int
        Entries of the update, or of the vector.
    block : str, optional
        Name of the vector; an update has none.
    largest_norm : float
        That is believed.

    Raises
    ------
    BadPayload
        If a record is missing or has the wrong type or size, a value is not finite, or there is too much power.
    """
    arrays, transmission = records_in(message.content, ArrayRecord), said_of_transmission(message)
    name, prefix = (SYMBOLS_KEY, "") if block is None else (block, f"{block}.")
    if not transmission or SYMBOLS_KEY not in arrays or name not in arrays[SYMBOLS_KEY]:
        raise BadPayload(
            "the reply carries no symbols: does the device's ClientApp use the mod clients.transmit?", "missing"
        )
    if (said := transmission.get(f"{prefix}size")) != size:
        raise BadPayload(f"symbols for an update of {shown(said)} entries, expected {size}", "shape")
    symbols = read_array(arrays[SYMBOLS_KEY][name], "the symbols", (code.uses(size),), (np.float32, np.float64))
    check_finite(symbols, "symbols")
    norm = read_norm(transmission, f"{prefix}norm", largest_norm)
    most = symbol_scale(code, size) ** 2 * code.largest_energy_ratio(size)
    with np.errstate(over="ignore"):
        energy = float(np.square(symbols, dtype=np.float64).sum())
    if energy > most * (1 + ROUNDING):
        raise BadPayload(f"symbols of an energy of {energy:.4g}, expected at most {most:.4g}", "power")
    return symbols, norm
