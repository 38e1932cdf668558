"""Events come in the order of time, then device, then arrival."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fedmac.clock.event_queue import EventQueue


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_equal_times_break_by_device_and_then_by_order_of_entry(events: list[tuple[int, int]]) -> None:
    queue = EventQueue()
    for number, (time, device) in enumerate(events):
        queue.put(float(time), device, 0, number)
    popped = [queue.pop() for _ in events]
    expected = sorted((time, device, number) for number, (time, device) in enumerate(events))
    assert [(time, device, subject) for time, device, _, _, subject in popped] == expected


def test_an_empty_queue_has_its_next_event_at_infinity() -> None:
    assert EventQueue().next_time == math.inf


def test_a_restored_queue_goes_on_as_the_other() -> None:
    queue, other = EventQueue(), EventQueue()
    for number in range(10):
        queue.put(float(number % 3), number % 2, number, number)
    other.restore(**queue.state())  # type: ignore[arg-type]
    for one in (queue, other):
        one.put(1.0, 0, 7, 7)
    assert [queue.pop() for _ in range(11)] == [other.pop() for _ in range(11)]
