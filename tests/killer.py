"""A run that is cut off: an observer of its progress that ends it."""

from __future__ import annotations

from typing import Any


class Killed(BaseException):
    """The run ends here."""


class Killer:
    """Ends a run in the first round from `round` on that somebody sees."""

    def __init__(self, round: int) -> None:
        self.round = round

    def begin(self, jobs: object) -> None: ...
    def end(self) -> None: ...
    def note(self, record: dict[str, Any]) -> None:
        if record["round"] >= self.round:
            raise Killed
