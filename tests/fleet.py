"""Small fleets of devices on real digits, and the grids that reach them, for the tests of learning over the air."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from channel.order import ORDER_KEY
from clients.app import Workplace, client_app
from clients.data import FederatedData, load
from clients.models import build
from clients.parameters import model_arrays
from clients.training import Trainer, Training
from fedmac.engines.local import FIRST_NODE, LocalGrid
from strategies.wrapped_grid import WrappedGrid

Arrays = Mapping[str, NDArray[Any]]
Tamper = Callable[[Message], Message | None]

# Many small products: threads would only wait for each other, and pytest may run beside other work.
torch.set_num_threads(1)

ONE_EPOCH = Training(learning_rate=0.5, local_epochs=1, batch_size=16)


def digits(devices: int = 4, *, dtype: torch.dtype = torch.float64, rows: int | None = 30) -> FederatedData:
    """Digits in unequal parts of different labels, cut to about `rows` rows a device so that training is quick."""
    data = load("digits", devices=devices, partition="dirichlet", alpha=1.0, dtype=dtype)
    if rows is not None:
        parts = [part[: rows + 7 * device] for device, part in enumerate(data.parts)]
        assert len({len(part) for part in parts}) > 1 or devices == 1
        data = FederatedData(data.train, data.validation, data.test, parts, data.num_classes, data.input_shape)
    return data.grouped()


def workplace(
    devices: int = 4, training: Training = ONE_EPOCH, *, dtype: torch.dtype = torch.float64, rows: int | None = 30
) -> Workplace:
    """A two-layer network of 610 parameters and its devices' data."""
    data = digits(devices, dtype=dtype, rows=rows)
    model = build("mlp", data.input_shape, data.num_classes, hidden=(8,), dtype=dtype)
    return Workplace(Trainer(model), data, training, seed=0)


def local_grid(work: Workplace, *, workers: int = 1) -> LocalGrid:
    """The devices of a workplace, trained in place."""
    return LocalGrid(work, client_app(lambda _context, _config: work), workers=workers)


def message_grid(work: Workplace, tamper: Mapping[int, Tamper] | None = None) -> MessageGrid:
    """The same devices, reached by messages only."""
    return MessageGrid(local_grid(work), tamper)


class MessageGrid(WrappedGrid):
    """Passes on everything a Grid is asked, and so hides that the grid below can train in place.

    Parameters
    ----------
    inner : LocalGrid
        The grid below.
    tamper : mapping from device to callable, optional
        What happens to the device's transmissions on their way: another reply, or None (lost).
    """

    def __init__(self, inner: LocalGrid, tamper: Mapping[int, Tamper] | None = None) -> None:
        self.grid = self.inner = inner
        self.tamper = tamper or {}

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        sent = {m.metadata.dst_node_id: set(m.content.config_records) for m in messages}
        replies: list[Message] = []
        for message, reply in zip(messages, self.inner.send_and_receive(messages), strict=True):
            tampered = self.tamper.get(message.metadata.dst_node_id - FIRST_NODE)
            if tampered is None or ORDER_KEY not in sent[message.metadata.dst_node_id]:
                replies.append(reply)
            elif (arrived := tampered(reply)) is not None:
                replies.append(arrived)
        # Nothing promises replies in the order of the messages.
        return replies[::-1]


def initial(work: Workplace) -> ArrayRecord:
    """The workplace's model at its start; ask before training, which overwrites it."""
    model = build("mlp", work.data.input_shape, work.data.num_classes, hidden=(8,), dtype=work.trainer.state.dtype)
    return record(model_arrays(model))


def record(arrays: Arrays) -> ArrayRecord:
    """Named arrays as Flower's record."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def flat(arrays: ArrayRecord | None) -> NDArray[Any]:
    """All entries of a record in one vector."""
    assert arrays is not None
    return np.concatenate([array.numpy().reshape(-1) for array in arrays.values()])


def train_messages(arrays: ArrayRecord, nodes: Iterable[int], kind: str = "train", round: int = 1) -> list[Message]:
    """What a Flower strategy sends at the start of a round."""
    identify()
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": round})})
    return [Message(content, node, kind) for node in nodes]


def run(strategy: Strategy, grid: Grid, work: Workplace, rounds: int = 3) -> Result:
    """Run a strategy from the workplace's initial model."""
    return strategy.start(grid, initial(work), num_rounds=rounds)


def identify() -> None:
    """Flower's Message constructor asks who is speaking; Flower's runtime usually says so."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def context(device: int = 0, devices: int = 4) -> Context:
    """A fresh context of a node."""
    return Context(1, FIRST_NODE + device, {"partition-id": device, "num-partitions": devices}, RecordDict(), {})


def error_reply(reply: Message, reason: str) -> Message:
    """The error that Flower sends in place of a reply."""
    error = Message(Error(0, reason), reply_to=reply)
    error.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
    return error
