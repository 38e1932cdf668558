"""The same plan by Flower messages: devices that reach the server only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from strategies.repurpose import Plan, account, repurpose
from strategies.repurpose.messages import device_app, infer_by_messages
from strategies.repurpose.part_file import save_parts
from strategies.repurpose.processes import WorkerDied
from tests import fleet
from tests.strategies.repurpose.networks import dense, inputs, residual

FIRST_NODE = 10


class Devices(Grid):
    """Calls each device's app with the message, as Flower would, and with the context that it left.

    Parameters
    ----------
    app : ClientApp
    silent, broken : int, optional
        A device that does not answer, and one that answers with an error.
    """

    def __init__(self, app: ClientApp, silent: int | None = None, broken: int | None = None) -> None:
        fleet.identify()
        self.app, self.silent, self.broken = app, silent, broken
        self.contexts: dict[int, Context] = {}
        self.rounds = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self.rounds += 1
        return [reply for message in messages if (reply := self._answer(message)) is not None][::-1]

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        device = node - FIRST_NODE
        if device == self.silent:
            return None
        fresh = Context(1, node, {"partition-id": device}, RecordDict(), {})
        context = self.contexts.setdefault(node, fresh)
        message.metadata.__dict__["_message_id"] = f"message-{self.rounds}-{node}"
        if device == self.broken:
            return Message(Error(0, "out of memory"), reply_to=message)
        return self.app(message, context)

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> None: ...

    def create_message(self, *arguments: object, **named: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return []

    def get_nodes(self) -> Iterable[object]:
        return []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return []


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = repurpose(residual(), inputs(residual()), 3, 1e-3)
    save_parts(made, tmp_path)
    return made


NODES = [FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2]


def test_messages_give_the_plans_outputs_and_carry_its_bytes(plan: Plan, tmp_path: Path) -> None:
    x, grid = inputs(residual(), rows=6), Devices(device_app(tmp_path))
    for _ in range(2):  # the second inference begins anew, whatever the first has left
        outputs, sent = infer_by_messages(grid, NODES, x, plan.model_hash)
        assert (outputs - plan.run(x)).abs().max() < 1e-5
        assert sent == 6 * account(plan).bytes
    talking = sum(layer.sends > 0 for layer in account(plan).layers)
    assert grid.rounds == 2 * (talking + 2)  # an exchange for each, the outputs, and the last word of the collector


def test_a_device_that_does_not_answer_or_fails_is_named(plan: Plan, tmp_path: Path) -> None:
    x = inputs(residual(), rows=2)
    with pytest.raises(WorkerDied, match=r"worker 1 \(node 11\) did not answer within 5 s"):
        infer_by_messages(Devices(device_app(tmp_path), silent=1), NODES, x, plan.model_hash, timeout=5.0)
    with pytest.raises(WorkerDied, match=r"worker 2 \(node 12\) failed: out of memory"):
        infer_by_messages(Devices(device_app(tmp_path), broken=2), NODES, x, plan.model_hash)


def test_a_part_of_another_model_is_refused(plan: Plan, tmp_path: Path) -> None:
    other = repurpose(dense(), inputs(dense()), 3, 0.1)
    with pytest.raises(ValueError, match="was asked for; accepted"):
        infer_by_messages(Devices(device_app(tmp_path)), NODES, torch.zeros(1, 1, 8, 8), other.model_hash)
