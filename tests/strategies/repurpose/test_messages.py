"""The same plan by Flower messages: devices that reach the server only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from strategies.repurpose import Plan, account, repurpose
from strategies.repurpose.inference import WorkerDied
from strategies.repurpose.messages import device_app, infer_by_messages
from strategies.repurpose.part_file import part_path, save_parts
from strategies.repurpose.plan_file import BadPlan, hash_of_plan
from tests import fleet
from tests.strategies.repurpose.networks import inputs, residual

FIRST_NODE = 10


class Devices(Grid):
    """Calls each device's app with the message, as Flower would, and with the context that it left.

    Parameters
    ----------
    app : ClientApp
    silent : collection of int
        Devices that do not answer.
    broken, foreign : int, optional
        A device that answers with an error, and one that answers what another app would.
    """

    def __init__(
        self, app: ClientApp, silent: Collection[int] = (), broken: int | None = None, foreign: int | None = None
    ) -> None:
        fleet.identify()
        self.app, self.silent, self.broken, self.foreign = app, silent, broken, foreign
        self.contexts: dict[int, Context] = {}
        self.rounds = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self.rounds += 1
        return [reply for message in messages if (reply := self._answer(message)) is not None][::-1]

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        device = node - FIRST_NODE
        if device in self.silent:
            return None
        fresh = Context(1, node, {"partition-id": device}, RecordDict(), {})
        context = self.contexts.setdefault(node, fresh)
        message.metadata.__dict__["_message_id"] = f"message-{self.rounds}-{node}"
        if device == self.broken:
            return Message(Error(0, "out of memory"), reply_to=message)
        if device == self.foreign:
            return Message(RecordDict(), reply_to=message)
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


NODES = [FIRST_NODE + 1, FIRST_NODE + 2, FIRST_NODE]
"""As Flower lists them, in no order."""


def devices(folder: Path) -> ClientApp:
    """Their app, with the parts in this folder."""
    return device_app(lambda _context: folder)


def test_messages_give_the_plans_outputs_and_carry_its_bytes(plan: Plan, tmp_path: Path) -> None:
    x, grid = inputs(residual(), rows=6), Devices(devices(tmp_path))
    for _ in range(2):  # the second inference begins anew, whatever the first has left
        outputs, sent = infer_by_messages(grid, NODES, x, hash_of_plan(plan))
        assert (outputs - plan.run(x)).abs().max() < 1e-5
        assert sent == 6 * account(plan).bytes
    talking = sum(layer.sends > 0 for layer in account(plan).layers)
    assert grid.rounds == 2 * (talking + 2)  # an exchange for each, the outputs, and the last word of the collector


def test_a_device_that_does_not_answer_or_fails_is_named(plan: Plan, tmp_path: Path) -> None:
    x, asked = inputs(residual(), rows=2), hash_of_plan(plan)
    with pytest.raises(WorkerDied, match=r"worker 1 \(node 11\) did not answer within 5 s"):
        infer_by_messages(Devices(devices(tmp_path), silent=[1]), NODES, x, asked, timeout=5.0)
    with pytest.raises(WorkerDied, match=r"worker 1 or 2 \(node 11\) did not answer"):
        infer_by_messages(Devices(devices(tmp_path), silent=[1, 2]), NODES, x, asked)
    with pytest.raises(WorkerDied, match=r"worker 2 \(node 12\) failed: out of memory"):
        infer_by_messages(Devices(devices(tmp_path), broken=2), NODES, x, asked)
    with pytest.raises(WorkerDied, match="node 10 answered without 'mail' and 'worker'"):
        infer_by_messages(Devices(devices(tmp_path), foreign=0), NODES, x, asked)


def test_a_part_of_another_plan_is_refused(plan: Plan, tmp_path: Path) -> None:
    other = repurpose(residual(), inputs(residual()), 3, 1.0)  # of the same model
    with pytest.raises(BadPlan, match="was asked for; accepted"):
        infer_by_messages(Devices(devices(tmp_path)), NODES, inputs(residual(), rows=1), hash_of_plan(other))


def test_two_devices_with_the_same_part_are_refused(plan: Plan, tmp_path: Path) -> None:
    part_path(tmp_path, 1).write_bytes(part_path(tmp_path, 2).read_bytes())
    with pytest.raises(WorkerDied, match=r"parts of workers \[0, 2, 2\]; accepted: one device for each of 0 to 2"):
        infer_by_messages(Devices(devices(tmp_path)), NODES, inputs(residual(), rows=1), hash_of_plan(plan))
