"""Messages and state of devices that answer with vectors: what was asked, what is kept, what is replied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from channel.layout import Layout
from channel.order import BLOCKS_KEY
from channel.records import records_in

STATE_KEY = "fedmac.second-order"
"""Record of ``Context.state`` that keeps a device's vectors between the exchanges of an iteration."""


def config_of(message: Message) -> Mapping[str, Any]:
    """The server's configuration."""
    return next(iter(records_in(message.content, ConfigRecord).values()), ConfigRecord())


def vectors_asked(message: Message) -> set[str]:
    """Names of the vectors that the server wants."""
    return set(records_in(message.content, ConfigRecord)[BLOCKS_KEY])


def arrays_of(message: Message) -> ArrayRecord:
    """The vectors sent with the message, by name."""
    return next(iter(records_in(message.content, ArrayRecord).values()), ArrayRecord())


def vector_in(message: Message, name: str, device: torch.device) -> Tensor:
    """One of the vectors sent with the message, on the device that computes."""
    return torch.from_numpy(arrays_of(message)[name].numpy()).to(device)


def model_in(message: Message, device: torch.device) -> Tensor:
    """The model sent with the message, as one vector on the device that computes."""
    arrays = {name: array.numpy() for name, array in arrays_of(message).items()}
    return torch.from_numpy(Layout.of_arrays(arrays).flatten(arrays)).to(device)


def keep(context: Context, *, anew: bool = False, **vectors: Tensor) -> None:
    """Keep vectors for the messages to come; `anew` forgets what was kept before."""
    record = {} if anew or STATE_KEY not in context.state else dict(records_in(context.state, ArrayRecord)[STATE_KEY])
    record |= {name: Array(vector.cpu().numpy()) for name, vector in vectors.items()}
    context.state[STATE_KEY] = ArrayRecord(record)


def kept(context: Context, name: str, device: torch.device) -> Tensor:
    """A vector kept from an earlier message, on the device that computes.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    if STATE_KEY not in context.state or name not in records_in(context.state, ArrayRecord)[STATE_KEY]:
        raise RuntimeError(f"this device has no {name} from an earlier message: it must be sent the model first")
    return torch.from_numpy(np.array(records_in(context.state, ArrayRecord)[STATE_KEY][name].numpy())).to(device)


def reply_with(message: Message, vectors: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> Message:
    """The reply that carries vectors and, beside the device's weight, metrics."""
    arrays = {name: Array(np.ascontiguousarray(vector.cpu().numpy())) for name, vector in vectors.items()}
    content = RecordDict({"vectors": ArrayRecord(arrays), "metrics": MetricRecord({"weight": 1.0, **metrics})})
    return Message(content, reply_to=message)
