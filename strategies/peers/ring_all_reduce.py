"""Ring all-reduce: the mean over all peers, and synchronous stochastic gradient descent by it."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from strategies.peers.peer import Held, Peer, Vector, check_peers, held_model

GO_ON, STOP = "go-on", "stop"
"""What becomes of a run when a worker is gone, or a message."""


async def ring_mean(peer: Peer, vector: Vector, step: int = 0) -> Vector:
    r"""The mean of the vectors of all that are present; every peer gets the same, to the bit.

    Peers stand in a ring in the order of their numbers, and the vector is cut into p parts as equal as can be. In
    p - 1 turns of *reduce-scatter* each peer passes a partial sum on to the next, which adds its own part; then each
    has one part of the sum, divides it by p, and in p - 1 turns of *all-gather* the parts go round [1]_.

    A peer sends all parts but one, twice: 2 d (p-1)/p numbers if p divides d, and otherwise as many in the mean over
    peers, each at most 2 numbers off. With links of one rate r and latency l, and s-bit numbers, it takes
    2 (p-1) (l + s d / (p r)).

    Parameters
    ----------
    peer : Peer
        Whose turn it is.
    vector : ndarray of shape (d,)
        Its vector; left as it is.
    step : int
        The step in which it is averaged.

    Raises
    ------
    PeerLost
        If a peer is gone.

    References
    ----------
    .. [1] P. Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", Journal of
       Parallel and Distributed Computing 69 (2), 2009.
    """
    p, k = len(peer.present), peer.present.index(peer.number)
    total = deepcopy(vector)
    cuts = [len(total) * part // p for part in range(p + 1)]
    parts = [total[begin:end] for begin, end in pairwise(cuts)]  # views of `total`
    for turn in range(p - 1):
        if (received := await _pass_on(peer, parts[(k - turn) % p], parts[(k - turn - 1) % p], step)) is not None:
            parts[(k - turn - 1) % p] += received
    parts[(k + 1) % p] /= p
    for turn in range(p - 1):
        if (received := await _pass_on(peer, parts[(k + 1 - turn) % p], parts[(k - turn) % p], step)) is not None:
            parts[(k - turn) % p][:] = received
    return total


async def _pass_on(peer: Peer, part: Vector, like: Vector, step: int) -> Vector | None:
    """Send to the next peer and receive from the one before; parts without numbers (d < p) are no messages."""
    ring, place = peer.present, peer.present.index(peer.number)
    if len(part):
        peer.send(ring[(place + 1) % len(ring)], part, step)
    return await peer.receive(ring[place - 1], like, step) if len(like) else None


@dataclass(frozen=True)
class RingAllReduce:
    r"""Synchronous stochastic gradient descent without a server.

    .. math:: x \leftarrow x + \frac1p \sum_k \Delta_k(x) ,

    :math:`\Delta_k` what a local step of peer k changes (:math:`-a\, g_k(x)`), its mean by :func:`ring_mean`. The
    replicas stay equal to the bit if they begin so; otherwise what they begin with stays between them.

    Parameters
    ----------
    on_lost : {"go-on", "stop"}, default "go-on"
        When a worker is gone or silent, or a message is lost: the others form the ring anew and take up the step again
        from the last finished one, or the run ends. Processes of their own always end.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    together: ClassVar[bool] = True

    on_lost: str = GO_ON

    def __post_init__(self) -> None:
        if self.on_lost not in (GO_ON, STOP):
            raise ValueError(f"on_lost = {self.on_lost!r}: accepted: {GO_ON}, {STOP}")

    def check(self, peers: int) -> None:
        """Refuse fewer than two peers."""
        check_peers(peers)

    async def run(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Take these steps."""
        x = held_model(held)
        for step in steps:
            x = x + await ring_mean(peer, await peer.step(x, step) - x, step)
            peer.note(step, Held(x))
        return Held(x)
