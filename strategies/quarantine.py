"""Quarantine: devices that keep sending what nobody can use are not asked for a while."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from strategies.refusal import Failure
from strategies.trust import Trust

_LONGEST_DOUBLINGS = 16


class Quarantine:
    """Counts bad replies by device and kind, and says whom not to ask.

    A device whose bad replies within ``trust.within_rounds`` rounds come to ``trust.bad_replies`` sits out for
    ``trust.quarantine_rounds``, the next time for twice as long, and so on; coming back it starts with a clean sheet.
    A device that does not answer, whose app raises, or whose packet is lost is not bad.

    What more than half of those who answered get wrong counts in the figures and against nobody: a model that has
    diverged makes every honest device send what is not finite.

    Parameters
    ----------
    trust : Trust
        The numbers.

    Attributes
    ----------
    bad : dict of int to Counter
        Bad replies so far, by device and kind.
    strays : Counter
        Replies that belong to no message of their exchange so far, by kind.
    """

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        self.bad: dict[int, Counter[str]] = {}
        self.strays: Counter[str] = Counter()
        self._rounds: dict[int, list[int]] = {}
        self._until: dict[int, int] = {}
        self._times: dict[int, int] = {}

    def note(self, round: int, answered: int, failures: Iterable[Failure]) -> None:
        """Take in an exchange.

        Parameters
        ----------
        round : int
            Its round.
        answered : int
            How many devices sent something, good or bad.
        failures : iterable of Failure
            Of the exchange; only bad ones count.
        """
        bad = [failure for failure in failures if failure.bad]
        for failure in bad:
            self.bad.setdefault(failure.device, Counter())[failure.kind] += 1
        if self.trust.bad_replies == 0 or 2 * len(bad) > answered:
            return
        for failure in bad:
            self._strike(failure.device, round)

    def note_one(self, round: int, failure: Failure, *, of_most: bool) -> None:
        """Take in one reply, where there are no exchanges; `of_most` says that most of the others get it wrong too."""
        if not failure.bad:
            return
        self.bad.setdefault(failure.device, Counter())[failure.kind] += 1
        if self.trust.bad_replies and not of_most:
            self._strike(failure.device, round)

    def note_strays(self, kinds: Iterable[str]) -> None:
        """Take in replies that belong to nothing."""
        self.strays.update(kinds)

    def out(self, device: int, round: int) -> str | None:
        """Why a device is not asked in a round; None if it is."""
        until = self._until.get(device, 0)
        return f"quarantined until round {until}: bad replies" if round < until else None

    def figures(self) -> dict[str, Any]:
        """For the record: what has been counted so far; nothing as long as nothing has."""
        bad = {str(device): dict(sorted(self.bad[device].items())) for device in sorted(self.bad)}
        figures = {"bad_replies": bad, "strays": dict(sorted(self.strays.items()))}
        return {name: counted for name, counted in figures.items() if counted}

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as JSON values."""
        return {
            "bad": {str(device): dict(counts) for device, counts in self.bad.items()},
            "strays": dict(self.strays),
            "rounds": {str(device): list(rounds) for device, rounds in self._rounds.items()},
            "until": {str(device): until for device, until in self._until.items()},
            "times": {str(device): times for device, times in self._times.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.bad = {int(device): Counter(counts) for device, counts in state["bad"].items()}
        self.strays = Counter(state["strays"])
        self._rounds = {int(device): list(rounds) for device, rounds in state["rounds"].items()}
        self._until = {int(device): int(until) for device, until in state["until"].items()}
        self._times = {int(device): int(times) for device, times in state["times"].items()}

    def _strike(self, device: int, round: int) -> None:
        if round < self._until.get(device, 0):
            return  # asked all the same, as nobody else was there
        recent = [r for r in self._rounds.get(device, []) if r > round - self.trust.within_rounds] + [round]
        self._rounds[device] = recent
        if len(recent) < self.trust.bad_replies:
            return
        times = self._times.get(device, 0)
        self._until[device] = round + 1 + self.trust.quarantine_rounds * 2 ** min(times, _LONGEST_DOUBLINGS)
        self._times[device] = times + 1
        del self._rounds[device]
