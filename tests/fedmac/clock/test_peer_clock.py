"""When peers received and sent, as their clock tells it."""

from __future__ import annotations

import pytest

from fedmac.clock.clocked_grid import Span
from fedmac.clock.faults import Faults
from fedmac.clock.fleet import Fleet
from fedmac.clock.links import Link
from fedmac.clock.peer_clock import PeerClock
from fedmac.clock.peer_network import PeerNetwork
from tests.fedmac.clock.simulated import ONE_FLOP_A_SECOND

LINK = Link(up_bps=100.0, down_bps=400.0, latency_s=0.5, receive_watts=3.0)
SERVER = 2


def clock(spans: list[Span], *, shared: bool = False, link: Link = LINK) -> PeerClock:
    """Of two devices and a server."""
    network = PeerNetwork([link] * SERVER, 1000.0, shared_medium=shared, latency_s=1.0)
    fleet = Fleet([ONE_FLOP_A_SECOND], SERVER, 0)
    return PeerClock(fleet, network, lambda _peer: 1.0, Faults(SERVER, 0), spans.append)


def carry(here: PeerClock, source: int, to: int, *, is_there: bool = True) -> float:
    """Send 200 bits at 5 s and let them arrive; when they are there."""
    there = here.receive(to, source, 200, here.send(source, to, 200, 5.0))
    here.carried(source, to if is_there else None, 200, 5.0, there)
    return there


@pytest.mark.parametrize("shared", [False, True])
def test_sender_and_receiver_each_have_a_span_that_ends_when_the_message_is_there(shared: bool) -> None:
    spans: list[Span] = []
    here = clock(spans, shared=shared)
    there = carry(here, 0, 1)
    assert spans == [(0, "send", 5.0, there), (1, "receive", there - 200 / 400, there)]
    assert here.usage.radio_j == [0.0, 3.0 * 200 / 400], "for as long as the span"


def test_a_server_has_no_spans_and_a_peer_receives_from_it() -> None:
    spans: list[Span] = []
    here = clock(spans)
    up, down = carry(here, 0, SERVER), carry(here, SERVER, 1)
    assert spans == [(0, "send", 5.0, up), (1, "receive", down - 200 / 400, down)]


def test_a_message_that_finds_its_peer_gone_is_not_received() -> None:
    spans: list[Span] = []
    there = carry(clock(spans), 0, 1, is_there=False)
    assert spans == [(0, "send", 5.0, there)]


def test_what_takes_no_time_is_not_received() -> None:
    spans: list[Span] = []
    there = carry(clock(spans, link=Link(100.0, float("inf"), 0.5)), 0, 1)
    assert spans == [(0, "send", 5.0, there)]
