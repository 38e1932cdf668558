"""Bytes that messages to and from devices hold."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from strategies.wire import Wire


def message(*sizes: int) -> Message:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    arrays = ArrayRecord({str(k): Array(np.zeros(size, np.float32)) for k, size in enumerate(sizes)})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"loss": 1.0})}), 2, "train")


def test_the_arrays_of_all_messages_are_counted_each_way() -> None:
    wire = Wire()
    wire.count([message(10), message(10)], [message(3, 4)])
    header = 128  # of NumPy's format, which an array is sent in
    assert wire.figures() == {"wire_down_bytes": 2 * (header + 40), "wire_up_bytes": 2 * header + 28}
    wire.count([message(10)], [])
    assert (wire.down, wire.up) == (3 * (header + 40), 2 * header + 28)


def test_errors_weigh_nothing_and_without_messages_there_is_nothing_to_tell() -> None:
    wire = Wire()
    wire.count([], [Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "gone"), reply_to=message(5))])
    assert wire.figures() == {}
