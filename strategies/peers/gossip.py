"""Gossiping stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from strategies.peers.exchange import MODES, Mode, sources
from strategies.peers.graph import Graph
from strategies.peers.mixing import graph_gap
from strategies.peers.peer import Held, Peer, Vector, check_every, check_peers, held_model


@dataclass(frozen=True)
class Gossip:
    r"""Each peer steps by itself, and every tau steps averages with a random neighbour.

    .. math:: x_k \leftarrow x_k - a\, g_k(x_k), \qquad X \leftarrow W_t X ,

    :math:`W_t` drawn by (seed, step), see :func:`~strategies.peers.exchange.sources`. With *pull*
    :math:`x_k \leftarrow (x_k + x_j)/2` for the j that k has chosen; with *push* :math:`x_j \leftarrow (x_j + x_k)/2`
    at the one chosen, which averages with the mean of what it gets if several chose it; *symmetric* is both at
    once, in disjoint pairs [1]_, [2]_.

    Symmetric gossip keeps the replicas' mean; pull keeps it in expectation, and so does push where all peers stand
    alike in the graph (complete, ring, torus). There is no barrier: a peer waits only for those from which it receives
    (over NCCL for those to which it sends, too), until they have taken the same step. An exchange with one that is
    gone, or whose message is lost, is skipped.

    Parameters
    ----------
    graph : Graph
        Who may talk to whom.
    mode : {"symmetric", "push", "pull"}
        As above.
    every : int, default 1
        tau, steps, >= 1.
    seed : int, default 0
        Names the draws, >= 0.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] P. H. Jin, Q. Yuan, F. Iandola, K. Keutzer, "How to scale distributed deep learning?", arXiv:1611.04581.
    .. [2] S. Boyd, A. Ghosh, B. Prabhakar, D. Shah, "Randomized gossip algorithms", IEEE Transactions on Information
       Theory 52 (6), 2006.
    """

    together: ClassVar[bool] = False

    graph: Graph
    mode: Mode = "symmetric"
    every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode = {self.mode!r}: accepted: {', '.join(MODES)}")
        check_every(self.every)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"seed = {self.seed!r}: accepted: an integer >= 0")

    @property
    def spectral_gap(self) -> float:
        """Of the graph's mixing matrix."""
        return graph_gap(self.graph)

    def check(self, peers: int) -> None:
        """Refuse another number of peers than the graph's."""
        check_peers(peers)
        if peers != self.graph.peers:
            raise ValueError(f"peers = {peers}: the graph has {self.graph.peers}; accepted: {self.graph.peers}")

    async def run(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Take these steps."""
        x = held_model(held)
        for step in steps:
            x = await peer.step(x, step)
            if step % self.every == 0:
                x = await self._exchange(peer, x, step)
            peer.note(step, Held(x))
        return Held(x)

    async def _exchange(self, peer: Peer, x: Vector, step: int) -> Vector:
        """Send x to whom it is meant for, and average with what comes."""
        plan = sources(self.graph, self.mode, self.seed, step)
        for to, expected in enumerate(plan):
            if peer.number in expected:
                peer.send(to, x, step)
        received = await peer.receive_all(plan[peer.number], x, step)
        return (x + sum(received) / len(received)) / 2 if received else x
