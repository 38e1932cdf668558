"""In real time: a worker of which the grid says at once that it is gone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from fedmac.engines.local import FIRST_NODE
from strategies.systems import mailbox
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.server_system import Figures
from tests.answering_grid import AnsweringGrid

GONE = FIRST_NODE + 1
PULLS = 100
"""So many looks for a reply does a step of a worker take."""


class Leaving(AnsweringGrid):
    """Two workers, of which the second leaves once it has been asked; the grid answers for it at once."""

    def __init__(self) -> None:
        super().__init__(2, answered)
        self.left = False
        self.looks = 0

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if not (self.left and node == GONE)]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.left = True
        self.looks += 1
        ready = [i for i in message_ids if self._replies[i].has_error() or self.looks % PULLS == 0]
        return super().pull_messages(ready)


def answered(message: Message) -> Message:
    if message.metadata.dst_node_id == GONE:
        reply = Message(Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable"), reply_to=message)
    else:
        arrays = ArrayRecord({"w": Array(message.content["arrays"]["w"].numpy() + np.float32(1))})
        reply = Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
    reply.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
    return reply


def test_a_worker_that_the_grid_knows_to_be_gone_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "POLL_SECONDS", 0.0)
    told: list[Figures] = []
    system = Asynchronous(devices=2)
    system.on_round = told.append
    result = system.start(Leaving(), ArrayRecord({"w": Array(np.zeros(3, np.float32))}), num_rounds=3)
    assert result.arrays is not None
    np.testing.assert_array_equal(result.arrays["w"].numpy(), np.full(3, 6, np.float32))
    assert [len(figures["failed"]) for figures in told] == [1, 0, 0]
    assert all(figures["connected"] == 1 and "stopped" not in figures for figures in told)
