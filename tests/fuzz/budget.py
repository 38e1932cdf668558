"""How many cases each property gets, and how long one may take."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hypothesis import HealthCheck, settings

ASKED = os.environ.get("FEDMAC_FUZZ")
"""Cases of each property; `make fuzz` sets it to 10,000. Without it few, and the same each time."""

CASES = settings(
    max_examples=int(ASKED or 200),
    deadline=None,
    derandomize=ASKED is None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

PATIENCE = 20.0
"""Seconds of computing for one case, of which each takes milliseconds: what takes longer hangs."""


def of_cases(share: float) -> settings:
    """For properties whose cases are slow: a share of the cases, but all of them where a number is asked for."""
    return CASES if ASKED else settings(CASES, max_examples=max(1, round(share * CASES.max_examples)))


@contextmanager
def no_hang() -> Iterator[None]:
    """Fail where a case does not come to its end."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"still at it after {PATIENCE:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
