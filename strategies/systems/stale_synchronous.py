"""Stale synchronous parallel: asynchronous, but nobody runs far ahead of the slowest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from strategies.mean_exchange import Vector
from strategies.systems.server_run import ServerRun
from strategies.systems.server_system import ACCEPTED, Figures, ServerSystem, check_whole
from strategies.systems.work import Work


class StaleSynchronous(ServerSystem):
    r"""Stale synchronous parallel [1]_.

    Each worker's clock counts its updates. One that is more than s ahead of the slowest connected worker waits; all
    others get the model as it is, with every update that has arrived:

    .. math:: x \leftarrow x + \frac{\eta}{p}\, \Delta_k .

    s = 0 is the synchronous server (all updates of a clock are in before anybody begins the next), and without a bound
    it is the asynchronous one at rate eta / p. Who joins, or comes back, begins at the clock of the slowest. Who is
    given up, as it has not answered in time or with nothing usable, is asked anew and holds up nobody; once it is heard
    again it goes on from the clock of the slowest. A round is p arrivals.

    Parameters
    ----------
    server_learning_rate : float, default 1
        eta.
    staleness_bound : int, default 2
        s >= 0; infinity for no bound.
    devices : int, optional
        p.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Q. Ho et al., "More effective distributed ML via a stale synchronous parallel parameter server", NIPS 2013.
    """

    def __init__(
        self, server_learning_rate: float = 1.0, staleness_bound: float = 2, devices: int | None = None
    ) -> None:
        super().__init__(server_learning_rate, devices)
        check_whole("staleness_bound", staleness_bound, 0, infinite=True)
        self.staleness_bound = staleness_bound
        self._clocks: dict[int, int] = {}
        self._silent: set[int] = set()
        self._at: Counter[int] = Counter()
        """How many of the others are at each clock."""
        self._woken_at = 0

    def begin(self, run: ServerRun) -> None:
        """All clocks at zero."""
        self._set({}, ())
        self._join(run.nodes)

    def may_begin(self, run: ServerRun, node: int) -> bool:
        """Not too far ahead; one that was given up is asked anew at once."""
        return node in self._silent or self._clocks[node] - self._slowest() <= self.staleness_bound

    def wakes(self, run: ServerRun) -> bool:
        """When the slowest have moved on."""
        moved = self._slowest() > self._woken_at
        self._woken_at = self._slowest()
        return moved

    def receive(self, run: ServerRun, work: Work, update: Vector) -> str:
        """A step of eta / p, and the worker's clock goes on."""
        rate = self.server_learning_rate / run.workers
        run.x = (run.x + rate * update).astype(run.x.dtype, copy=False)
        run.version += 1
        node = work.node
        if node in self._silent:
            self._silent.remove(node)
            self._clocks[node] = self._slowest(otherwise=self._clocks[node])
        else:
            self._leave(self._clocks[node])
        self._clocks[node] += 1
        self._at[self._clocks[node]] += 1
        self._fall_back()
        return ACCEPTED

    def give_up(self, run: ServerRun, node: int) -> None:
        """Its clock counts no more."""
        if node in self._clocks and node not in self._silent:
            self._leave(self._clocks[node])
            self._silent.add(node)

    def meet(self, run: ServerRun, joined: Iterable[int], left: Iterable[int]) -> None:
        """The clocks are those of the connected."""
        for node in left:
            clock = self._clocks.pop(node)
            if node in self._silent:
                self._silent.remove(node)
            else:
                self._leave(clock)
        self._join(joined)

    def figures(self, run: ServerRun) -> Figures:
        """How far apart the clocks are, of those who have not been given up."""
        return {"clock_spread": max(self._at, default=0) - self._slowest()}

    def memory(self) -> dict[str, Any]:
        """The clocks, and who was given up."""
        clocks = [list(item) for item in sorted(self._clocks.items())]
        return {"clocks": clocks, "silent": sorted(self._silent), "woken_at": self._woken_at}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from a :meth:`memory`."""
        self._set({int(node): int(clock) for node, clock in memory["clocks"]}, memory.get("silent", ()))
        self._woken_at = memory["woken_at"]

    def _slowest(self, otherwise: int = 0) -> int:
        return min(self._at, default=otherwise)

    def _set(self, clocks: dict[int, int], silent: Iterable[int]) -> None:
        self._clocks, self._silent, self._woken_at = clocks, set(silent), 0
        self._at = Counter(clock for node, clock in clocks.items() if node not in self._silent)

    def _join(self, nodes: Iterable[int]) -> None:
        slowest = self._slowest(otherwise=max(self._clocks.values(), default=0))
        for node in nodes:
            self._clocks[node] = slowest
            self._at[slowest] += 1
        self._fall_back()

    def _fall_back(self) -> None:
        """Where all had been given up, the first one that is heard may be behind: those who wait wait for it then."""
        self._woken_at = min(self._woken_at, self._slowest())

    def _leave(self, clock: int) -> None:
        self._at[clock] -= 1
        if not self._at[clock]:
            del self._at[clock]
