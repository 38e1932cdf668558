"""A grid on which time is simulated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from fedmac.clock.clocked_grid import ClockedGrid, Span
from fedmac.clock.faults import Faults, Incident
from fedmac.clock.in_place_training import InPlaceTraining
from fedmac.clock.links import Link
from fedmac.engines.local import FIRST_NODE
from strategies.systems.timed import Standstill, TimedGrid
from tests import fleet
from tests.fedmac.clock.simulated import InstantGrid, clocked, one_more, unchanged, vector

ONES = vector(np.ones(4))  # 256 bits


def replies_of(grid: ClockedGrid, nodes: list[int] | None = None) -> list[tuple[float, int]]:
    """Send everybody a message; when each reply is there, and of which device."""
    grid.push_messages(fleet.train_messages(ONES, nodes or grid.get_node_ids()))
    told = []
    while True:
        try:
            reply = grid.next_reply()
        except Standstill:
            return told
        if reply is not None:
            told.append((grid.now, reply.metadata.src_node_id - FIRST_NODE))


def test_it_is_a_timed_grid() -> None:
    assert isinstance(clocked(unchanged, [1.0]), TimedGrid)


def test_a_reply_arrives_after_download_work_and_upload() -> None:
    grid = clocked(unchanged, [3.0], link=Link(up_bps=128.0, down_bps=256.0, latency_s=0.25))
    # 0.25 + 256 / 256, then 3, then 0.25 + 256 / 128.
    assert replies_of(grid) == [(0.25 + 1.0 + 3.0 + 0.25 + 2.0, 0)]


def test_equal_times_break_by_device() -> None:
    grid = clocked(unchanged, [1.0] * 5)
    assert replies_of(grid, grid.get_node_ids()[::-1]) == [(1.0, device) for device in range(5)]


def test_a_device_works_at_one_message_after_the_other() -> None:
    grid = clocked(unchanged, [2.0])
    node = grid.get_node_ids()
    assert replies_of(grid, node * 3) == [(2.0, 0), (4.0, 0), (6.0, 0)]


def test_time_passes_only_in_waiting_and_never_beyond_what_is_asked() -> None:
    grid = clocked(unchanged, [2.0])
    grid.push_messages(fleet.train_messages(ONES, grid.get_node_ids()))
    assert grid.now == 0.0
    assert grid.next_reply(until=1.5) is None
    assert grid.now == 1.5
    assert grid.next_reply(until=2.0) is not None
    assert grid.now == 2.0


def test_nothing_to_come_is_a_standstill() -> None:
    with pytest.raises(Standstill, match="nothing can happen any more"):
        clocked(unchanged, [1.0]).next_reply()


def test_a_device_that_comes_or_goes_interrupts_the_waiting() -> None:
    grid = clocked(unchanged, [9.0, 9.0], incidents=[Incident(1, "crash", 2.0, 3.0)])
    grid.push_messages(fleet.train_messages(ONES, grid.get_node_ids()))
    assert grid.next_reply() is None
    assert (grid.now, grid.get_node_ids()) == (2.0, [FIRST_NODE])
    assert grid.next_reply() is None
    assert (grid.now, len(grid.get_node_ids())) == (5.0, 2)
    assert grid.next_reply() is not None
    with pytest.raises(Standstill):
        grid.next_reply()


def test_a_reply_that_nobody_gets_is_never_computed() -> None:
    grid = clocked(unchanged, [1.0, 1.0], incidents=[Incident(1, "crash", 0.5)])
    replies_of(grid)
    assert isinstance(grid.grid, InstantGrid)
    assert [device for device, _, _ in grid.grid.asked] == [0]


def test_pulling_waits_for_one_of_the_messages_asked_for() -> None:
    grid = clocked(unchanged, [1.0, 5.0])
    first, second = grid.push_messages(fleet.train_messages(ONES, grid.get_node_ids()))
    (reply,) = grid.pull_messages([second])
    assert reply.metadata.reply_to_message_id == second
    assert grid.now == 5.0
    assert len(grid.pull_messages([first])) == 1
    assert grid.pull_messages([first, second]) == []


@pytest.mark.parametrize(("timeout", "there", "now"), [(None, 3, 5.0), (2.5, 2, 2.5), (0.5, 0, 0.5)])
def test_send_and_receive_waits_for_all_or_the_timeout(timeout: float | None, there: int, now: float) -> None:
    grid = clocked(unchanged, [1.0, 2.0, 5.0])
    replies = grid.send_and_receive(fleet.train_messages(ONES, grid.get_node_ids()), timeout=timeout)
    assert (len(replies), grid.now) == (there, now)


def test_flowers_own_strategies_run_on_it() -> None:
    grid = clocked(one_more, [1.0, 2.0])
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.configrecord_key = "config"
    result = strategy.start(grid, vector(np.zeros(2)), num_rounds=3)
    assert result.arrays["x"].numpy().tolist() == [3.0, 3.0]
    assert grid.now == 6.0


def test_energy_is_that_of_computing_waiting_and_the_interface() -> None:
    link = Link(256.0, 256.0, 0.0, send_watts=3.0, receive_watts=1.0)
    grid = clocked(unchanged, [2.0, 6.0], link=link)
    replies_of(grid)
    used = grid.used()
    assert grid.now == 8.0  # a second down, six of work, a second up
    assert used.compute_j.tolist() == [4.0, 12.0]  # 2 W
    assert used.idle_j.tolist() == [3.0, 1.0]  # 0.5 W
    assert used.radio_j.tolist() == [4.0, 4.0]
    assert used.utilisation.tolist() == [0.25, 0.75]
    assert used.record()["energy_j_per_device_max"] == 17.0


def test_utilisation_counts_work_in_progress() -> None:
    grid = clocked(unchanged, [8.0])
    grid.push_messages(fleet.train_messages(ONES, grid.get_node_ids()))
    grid.next_reply(until=4.0)
    assert grid.used().busy_s.tolist() == [4.0]


def test_spans_cover_a_devices_time_without_overlap() -> None:
    spans: list[Span] = []
    grid = clocked(unchanged, [2.0], link=Link(256.0, 256.0, 0.5), on_span=spans.append)
    replies_of(grid, grid.get_node_ids())
    # Half a second of latency, in which nothing of it is there.
    assert spans == [(0, "receive", 0.5, 1.5), (0, "compute", 1.5, 3.5), (0, "send", 3.5, 5.0)]


def test_a_device_receives_the_next_message_while_it_computes() -> None:
    spans: list[Span] = []
    grid = clocked(unchanged, [2.0], link=Link(256.0, 256.0, 0.0), server_bps=256.0, on_span=spans.append)
    replies_of(grid, grid.get_node_ids() * 2)
    assert [span for span in spans if span[1] != "send"] == [
        (0, "receive", 0.0, 1.0), (0, "compute", 1.0, 3.0), (0, "receive", 1.0, 2.0), (0, "compute", 3.0, 5.0),
    ]  # fmt: skip


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_drawn_for_receiving_is_the_power_for_the_receiving_spans(shared: bool, seed: int) -> None:
    """Also of messages that are lost, of devices that go while they receive, and where they queue."""
    spans: list[Span] = []
    faults = Faults(4, seed, loss=0.2, mean_up_s=20.0, mean_down_s=2.0)
    grid = clocked(
        unchanged, [2.0, 0.5, 4.0, 1.0], link=Link(np.inf, 256.0, 0.25, receive_watts=3.0), server_bps=512.0,
        shared_medium=shared, faults=faults, on_span=spans.append,
    )  # fmt: skip
    grid.push_messages(fleet.train_messages(ONES, [FIRST_NODE + device for device in range(4)] * 6))
    while grid.now < 100.0:
        grid.next_reply(until=100.0)
    seconds = [
        sum(end - start for device, what, start, end in spans if (device, what) == (i, "receive")) for i in range(4)
    ]
    assert 0 < sum(seconds) <= 24.0, "a second each"
    assert [3.0 * one for one in seconds] == pytest.approx(grid.used().radio_j.tolist())


def test_what_brings_no_bits_or_takes_no_time_is_not_received() -> None:
    spans: list[Span] = []
    empty = clocked(unchanged, [2.0], link=Link(256.0, 256.0, 0.5), on_span=spans.append)
    empty.send_and_receive(fleet.train_messages(vector(np.ones(0)), empty.get_node_ids()))
    at_once = clocked(unchanged, [2.0], on_span=spans.append)
    at_once.send_and_receive(fleet.train_messages(ONES, at_once.get_node_ids()))
    assert [what for _, what, _, _ in spans] == ["compute", "compute", "send"]


def test_a_message_that_finds_its_device_gone_is_not_received() -> None:
    spans: list[Span] = []
    incidents = [Incident(0, "crash", 0.5)]
    grid = clocked(unchanged, [2.0], link=Link(256.0, 256.0, 0.0), incidents=incidents, on_span=spans.append)
    assert replies_of(grid) == []
    assert spans == []


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_what_is_computed_does_not_depend_on_how_many_go_at_once(at_once: int) -> None:
    grid = clocked(one_more, [1.0, 2.0, 3.0], at_once=at_once)
    grid.push_messages(fleet.train_messages(vector(np.zeros(1)), grid.get_node_ids()))
    replies = [grid.next_reply() for _ in range(3)]
    assert [reply.content["arrays"]["x"].numpy().tolist() for reply in replies if reply is not None] == [[1.0]] * 3
    assert isinstance(grid.grid, InstantGrid)
    assert len(grid.grid.asked) == 3


def test_queries_cost_latency_and_no_work() -> None:
    grid = clocked(unchanged, [100.0], link=Link(256.0, 256.0, 0.5))
    (reply,) = grid.send_and_receive(fleet.train_messages(ONES, grid.get_node_ids(), kind="query"))
    assert reply.has_content()
    assert grid.now == pytest.approx(2.0)
    assert grid.used().busy_s.tolist() == [0.0]


def test_a_fleet_of_another_size_is_refused() -> None:
    other = clocked(unchanged, [1.0, 1.0])
    with pytest.raises(ValueError, match="fleet: of 2 devices; accepted: 3, as the grid has"):
        ClockedGrid(InstantGrid(3, unchanged), other.fleet, other.network, lambda _device: 1.0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_in_place_answers_as_the_devices_app_does_to_the_bit(workers: int, dtype: torch.dtype) -> None:
    work = fleet.workplace(dtype=dtype)
    model = fleet.initial(work)
    by_app = fleet.local_grid(work).send_and_receive(fleet.train_messages(model, range(FIRST_NODE, FIRST_NODE + 4)))
    with fleet.local_grid(work, workers=workers) as grid:
        in_place = InPlaceTraining(grid).answer(fleet.train_messages(model, range(FIRST_NODE, FIRST_NODE + 4)))
    for one, other in zip(in_place, by_app, strict=True):
        assert dict(one.content["metrics"]) == dict(other.content["metrics"])
        arrays, expected = one.content.array_records["arrays"], other.content.array_records["arrays"]
        assert {name: array.data for name, array in arrays.items()} == {n: a.data for n, a in expected.items()}


def test_training_in_place_says_why_a_device_fails() -> None:
    work = fleet.workplace()
    work.data.parts.clear()
    grid = fleet.local_grid(work)
    (reply,) = InPlaceTraining(grid).answer(fleet.train_messages(fleet.initial(work), [FIRST_NODE]))
    assert "device = 0 does not exist" in str(reply.error.reason)


def test_what_asks_for_more_than_training_goes_to_the_app() -> None:
    training = InPlaceTraining(fleet.local_grid(fleet.workplace()))
    plain, query = fleet.train_messages(ONES, [FIRST_NODE]), fleet.train_messages(ONES, [FIRST_NODE], kind="query")
    assert training.takes(plain[0])
    assert not training.takes(query[0])
    plain[0].content["fedmac.order"] = plain[0].content["config"]
    assert not training.takes(plain[0])
