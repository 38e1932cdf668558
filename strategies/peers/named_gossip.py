"""Gossip as a scenario names it: its graph by a word, drawn or placed for the number of its peers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from channel.randomness import generator
from strategies.peers.exchange import MODES
from strategies.peers.gossip import Gossip
from strategies.peers.graph import Graph, complete, geometric, grid, ring
from strategies.peers.peer import check_every, check_peers

GRAPHS = ("complete", "ring", "grid", "geometric")

SIDE_M = 100.0
"""Of the square in which peers lie that nothing else places (m)."""


@dataclass(frozen=True)
class NamedGossip:
    """Parameters of gossip without its peers; see :class:`~strategies.peers.gossip.Gossip`.

    Parameters
    ----------
    mode : {"symmetric", "push", "pull"}
        As of gossip.
    every : int, default 1
        Steps from one exchange to the next, >= 1.
    graph : {"complete", "ring", "grid", "geometric"}
        Who may talk to whom; *grid*: a torus as near to a square as p has divisors.
    radius_m : float, optional
        Of a geometric graph: who is no further off may be talked to (m), > 0.
    allow_disconnected : bool, default False
        Take a geometric graph in parts, with a warning.

    Raises
    ------
    ValueError
        If a parameter is out of range, or missing.
    """

    mode: str = "symmetric"
    every: int = 1
    graph: str = "complete"
    radius_m: float | None = None
    allow_disconnected: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode = {self.mode!r}: accepted: {', '.join(MODES)}")
        check_every(self.every)
        if self.graph not in GRAPHS:
            raise ValueError(f"graph = {self.graph!r}: accepted: {', '.join(GRAPHS)}")
        if self.graph != "geometric":
            if self.radius_m is not None:
                raise ValueError(f'radius_m = {self.radius_m!r}: accepted: radius_m left out, or graph = "geometric"')
        elif self.radius_m is None:
            raise ValueError('radius_m: missing, but graph = "geometric" needs it; accepted: a number > 0 (m)')
        elif not 0 < self.radius_m < math.inf:
            raise ValueError(f"radius_m = {self.radius_m!r}: accepted: a finite number > 0 (m)")

    def check(self, peers: int) -> None:
        """Refuse fewer than two peers."""
        check_peers(peers)

    def among(self, peers: int, seed: int, positions_m: ArrayLike | None = None) -> Gossip:
        """Gossip of so many peers.

        Parameters
        ----------
        peers : int
            p, >= 2.
        seed : int
            Names the draws.
        positions_m : array_like of shape (p, 2), optional
            Where they are, for a geometric graph; by default drawn in a square with sides of 100 m.

        Raises
        ------
        ValueError
            If there are too few peers, or the graph is in parts, which are named.
        """
        return Gossip(self._graph(peers, seed, positions_m), self.mode, self.every, seed)  # type: ignore[arg-type]

    def _graph(self, peers: int, seed: int, positions_m: ArrayLike | None) -> Graph:
        check_peers(peers)
        if self.graph == "complete":
            return complete(peers)
        if self.graph == "ring":
            return ring(peers)
        if self.graph == "grid":
            rows = max(rows for rows in range(1, math.isqrt(peers) + 1) if peers % rows == 0)
            return grid(rows, peers // rows)
        if positions_m is None:
            positions_m = generator(seed, "positions of peers").uniform(0.0, SIDE_M, (peers, 2))
        assert self.radius_m is not None
        try:
            return geometric(positions_m, self.radius_m, allow_disconnected=self.allow_disconnected)
        except ValueError as error:
            raise ValueError(str(error).replace("edges:", f"radius_m = {self.radius_m:g}:", 1)) from None
