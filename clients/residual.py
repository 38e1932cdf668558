"""What a device keeps for error feedback from one message to the next, all of it in Flower's ``Context.state``."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from channel.codecs import ErrorFeedback
from channel.records import records_in

RESIDUAL_KEY = "fedmac.residual"
"""Record of the state with the residual: what was left out of what has been sent."""

SENT_KEY = "fedmac.sent"
"""Record of the state with what the last packet stands for (entry of the same name), and its exchange's seed."""

SEED = "seed"


def residual_in(state: RecordDict, lost_since: int | None = None) -> Tensor | None:
    """The residual that the next update is sent with; None if nothing has been sent.

    Parameters
    ----------
    state : RecordDict
        The device's; it is left as it is, so that an order that leads to no packet changes nothing.
    lost_since : int, optional
        What the order says of lost packets, :attr:`channel.order.PacketOrder.lost_since`: unless the last packet is of
        this exchange it is lost, and what it stood for is left over as well. If not given it has arrived.
    """
    if RESIDUAL_KEY not in records_in(state, ArrayRecord):
        return None
    residual = _tensor(records_in(state, ArrayRecord)[RESIDUAL_KEY][RESIDUAL_KEY])
    sent = records_in(state, ArrayRecord).get(SENT_KEY)
    if lost_since is None or sent is None or int(sent[SEED].numpy()[0]) == lost_since:
        return residual
    return ErrorFeedback.after_loss(residual, _tensor(sent[SENT_KEY]))


def keep_residual(state: RecordDict, residual: Tensor) -> None:
    """Keep what is left of an update that has been sent."""
    state[RESIDUAL_KEY] = ArrayRecord({RESIDUAL_KEY: Array(residual.numpy())})


def keep_sent(state: RecordDict, decoded: Tensor, seed: int) -> None:
    """Keep what a packet, sent in the exchange of this seed, stands for until it is known what became of it."""
    state[SENT_KEY] = ArrayRecord({SENT_KEY: Array(decoded.numpy()), SEED: Array(np.array([seed]))})


def forget(state: RecordDict) -> None:
    """Drop what was kept in another run."""
    for name in (RESIDUAL_KEY, SENT_KEY):
        state.pop(name, None)


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array.numpy().copy())
