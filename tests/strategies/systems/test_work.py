"""What workers are at is counted by its round, whatever begins, ends or is kept in a file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.systems.work import AtWork, Work, kept_work, work_from


def work(node: int, round: int) -> Work:
    return Work(node, 1, 0, round, 0.5, np.arange(3.0))


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3))))
def test_counts_are_those_of_the_work_that_is_left(events: list[tuple[int, int]]) -> None:
    working = AtWork()
    for node, round in events:
        if str(node) in working:
            working.take(str(node))
        else:
            working.add(str(node), work(node, round))
    for counted in (working, work_from(kept_work(working))):
        assert list(counted) == list(working)
        for round in range(5):
            assert counted.of_round[round] == sum(one.round == round for one in working.values())


def test_work_that_nobody_is_at_cannot_end() -> None:
    working = AtWork({"a": work(1, 2)})
    with pytest.raises(KeyError):
        working.take("b")
    assert working.of_round[2] == 1
