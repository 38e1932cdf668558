"""Real time: what messages weigh, and a clock that goes on after a crash; on a simulated one nothing is sent."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from strategies.systems.server_system import Figures
from strategies.systems.synchronous import Synchronous
from tests.answering_grid import AnsweringGrid
from tests.fedmac.clock.simulated import clocked, one_more
from tests.strategies.systems.least_squares import run

MODEL = np.zeros(1000, np.float32)


def trained(message: Message) -> Message:
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})})
    reply = Message(content, reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
    reply.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
    return reply


def test_every_model_sent_counts_with_its_header_both_ways() -> None:
    told: list[Figures] = []
    system = Synchronous(devices=3)
    system.on_round = told.append
    system.start(AnsweringGrid(3, trained), ArrayRecord({"w": Array(MODEL)}), num_rounds=2)
    one = len(Array(MODEL).data)
    assert one - MODEL.nbytes == 128  # NumPy's header
    for way in ("down", "up"):
        assert [figures[f"wire_{way}_bytes"] for figures in told] == [3 * one, 6 * one]


def test_seconds_go_on_where_a_run_was_cut_off_and_a_deadline_counts_from_there() -> None:
    initial = ArrayRecord({"w": Array(MODEL)})
    first = Synchronous(devices=3)
    first.start(AnsweringGrid(3, trained), initial, num_rounds=1)
    told: list[Figures] = []
    again = Synchronous(devices=3, deadline_s=100.0)
    again.on_round = told.append
    again.go_on_from(1, first.state() | {"now": 5000.0})
    again.start(AnsweringGrid(3, trained), initial, num_rounds=3)
    assert [figures["accepted"] for figures in told] == [3, 3]
    assert again.run is not None
    assert 5000.0 < again.run.now < 5100.0


def test_on_a_simulated_clock_nothing_is_sent() -> None:
    told = run(Synchronous(), clocked(one_more, [1.0, 1.0]), 2, size=1)
    assert not any("wire_up_bytes" in figures for figures in told.figures)
