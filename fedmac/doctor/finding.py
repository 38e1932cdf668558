"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    level : {"ok", "warning", "problem"}
        A problem keeps something from working; a warning may, later or elsewhere.
    about : str
        What was looked at.
    found : str
        What it is like.
    advice : str
        What to do about it; empty where nothing need be done.
    """

    level: Level
    about: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.about}: {self.found}" + (f"; {self.advice}" if self.advice else "")


def graded(value: float, problem_below: float, warning_below: float) -> Level:
    """The level of an amount of which there should be enough."""
    return "problem" if value < problem_below else "warning" if value < warning_below else "ok"
