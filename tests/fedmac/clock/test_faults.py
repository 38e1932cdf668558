"""Crashes, returns, late joins, hangs and losses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedmac.clock.faults import Faults, Incident


def test_a_device_that_joins_late_is_not_there_before() -> None:
    faults = Faults(2, 0, incidents=[Incident(1, "join", 5.0)])
    assert [faults.there(1, time) for time in (0.0, 4.9, 5.0)] == [False, False, True]
    assert faults.there(0, 0.0)
    assert faults.next_change(1, 0.0) == 5.0


def test_a_crash_lasts_until_the_device_is_back_or_for_ever() -> None:
    faults = Faults(2, 0, incidents=[Incident(0, "crash", 2.0, 3.0), Incident(1, "crash", 2.0)])
    assert [faults.there(0, time) for time in (1.9, 2.0, 4.9, 5.0)] == [True, False, False, True]
    assert not faults.there(1, 1e12)
    assert faults.next_outage(0, 0.0) == (2.0, 5.0)
    assert faults.next_change(1, 2.0) == math.inf


def test_drawn_outages_have_their_means_and_never_overlap() -> None:
    faults = Faults(1, 7, mean_up_s=10.0, mean_down_s=2.0)
    outages, time = [], 0.0
    for _ in range(2000):
        outage = faults.next_outage(0, time)
        assert outage is not None
        assert outage[0] >= time
        outages.append(outage)
        time = outage[1]
    down = np.array([end - start for start, end in outages])
    # The mean of 2,000 exponentials has a relative standard error of 1 / sqrt(2000) = 2.2 %.
    assert down.mean() == pytest.approx(2.0, rel=0.1)
    assert time / 2000 == pytest.approx(12.0, rel=0.1)


def test_messages_are_lost_at_their_rate_each_way_on_its_own() -> None:
    faults = Faults(1, 3, loss=0.2)
    lost = np.array([[faults.is_lost(0, step, way) for step in range(5000)] for way in ("up", "down")])
    assert lost.mean(axis=1) == pytest.approx([0.2, 0.2], abs=0.03)  # standard error 0.006
    assert abs(np.corrcoef(lost)[0, 1]) < 0.06  # standard error 0.014


def test_a_hang_holds_up_the_work_that_it_falls_into_and_what_would_begin_meanwhile() -> None:
    faults = Faults(2, 0, incidents=[Incident(0, "hang", 5.0, 60.0), Incident(1, "hang", 5.0)])
    assert faults.hang_seconds(0, 0, 4.0, 6.0) == 60.0
    assert faults.hang_seconds(0, 0, 6.0, 8.0) == 59.0  # idle at 5 s, it would have begun at 6
    assert [faults.hang_seconds(0, 0, *work) for work in ((3.0, 5.0), (65.0, 67.0))] == [0.0, 0.0]
    assert faults.hang_seconds(1, 0, 1e6, 1e6 + 1.0) == math.inf


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": 1.0}, "loss = 1.0: accepted: a number >= 0 and < 1"),
        ({"mean_up_s": 1.0}, "mean_down_s: missing; accepted: mean_up_s and mean_down_s together"),
        ({"mean_up_s": 0.0, "mean_down_s": 1.0}, "mean_up_s = 0.0: accepted: a finite number > 0"),
        ({"incidents": [Incident(4, "crash", 1.0)]}, "device = 4: accepted: an integer from 0 to 1"),
    ],
)
def test_faults_that_cannot_be_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faults(2, 0, **given)  # type: ignore[arg-type]


def test_an_incident_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind = 'nap': accepted: crash, hang, join"):
        Incident(0, "nap", 1.0)
