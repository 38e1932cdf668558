"""Elastic averaging: replicas on springs around a centre."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from strategies.peers.peer import Held, Missed, Peer, Vector, check_every, check_peers, held_model


@dataclass(frozen=True)
class ElasticAveraging:
    r"""Elastic averaging stochastic gradient descent (EASGD), in its synchronous form.

    Every tau steps

    .. math:: x_k \leftarrow x_k - a\, g_k(x_k) - b\,(x_k - c), \qquad c \leftarrow c + b \sum_k (x_k - c) ,

    both from the :math:`x_k` and c of before, b = beta / p with p workers [1]_; in the steps between there is no
    spring. The centre c is the model that comes out; it begins at its keeper's vector. The other workers send
    :math:`x_k`, and step while c comes (over NCCL before it comes), which waits for all replicas of the exchange
    before, not of this one. A replica or a centre that does not come is left out of the sum, or pulls nobody.

    Parameters
    ----------
    beta : float, default 0.9
        0 < beta <= 1, within which the centre never goes beyond the replicas' mean.
    every : int, default 1
        tau, steps, >= 1.
    server : bool, default False
        Who keeps the centre: a server, which does nothing else and is the last peer, or peer 0, a worker as well.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] S. Zhang, A. Choromanska, Y. LeCun, "Deep learning with elastic averaging SGD", NeurIPS 2015,
       arXiv:1412.6651, equations 5 and 6.
    """

    together: ClassVar[bool] = False

    beta: float = 0.9
    every: int = 1
    server: bool = False

    def __post_init__(self) -> None:
        number = isinstance(self.beta, int | float) and not isinstance(self.beta, bool)
        if not number or not 0 < self.beta <= 1:
            raise ValueError(f"beta = {self.beta!r}: accepted: a number above 0, up to 1")
        check_every(self.every)

    def check(self, peers: int) -> None:
        """Refuse fewer than two workers."""
        if self.server:
            check_peers(
                peers, 3, "with server = true one of them does not train, and one worker has nobody to average with"
            )
        check_peers(peers)

    def keeper(self, peers: int) -> int:
        """Who keeps the centre."""
        return peers - 1 if self.server else 0

    async def run(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Take these steps."""
        return await (self._keep if peer.number == self.keeper(peer.peers) else self._work)(peer, held, steps)

    def _strength(self, peer: Peer) -> float:
        """The constant b."""
        return self.beta / (peer.peers - self.server)

    async def _work(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Take the steps of a worker that does not keep the centre."""
        b, keeper, x = self._strength(peer), self.keeper(peer.peers), held_model(held)
        for step in steps:
            if step % self.every:
                x = await peer.step(x, step)
            else:
                peer.send(keeper, x, step)
                before, x = x, await peer.step(x, step)
                with suppress(Missed):
                    x = x - b * (before - await peer.receive(keeper, before, step))
            peer.note(step, Held(x))
        return Held(x)

    async def _keep(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Keep the centre, and take a worker's steps too, unless the keeper is a server."""
        b = self._strength(peer)
        centre = held_model(held) if held.centre is None else held.centre
        x = centre if self.server else held_model(held)
        others = [k for k in range(peer.peers) if k != peer.number]
        for step in steps:
            meets = step % self.every == 0
            for k in others if meets else ():
                peer.send(k, centre, step)
            stepped = x if self.server else await peer.step(x, step)
            if meets:
                pull = 0 if self.server else x - centre
                stepped = stepped - b * pull
                for replica in await peer.receive_all(others, centre, step):  # ordered, so that sums round the same
                    pull = pull + (replica - centre)
                centre = centre + b * pull
            x = stepped
            peer.note(step, self._held(x, centre))
        return self._held(x, centre)

    def _held(self, x: Vector, centre: Vector) -> Held:
        """A server has no replica of its own."""
        return Held(None if self.server else x, centre)
