"""Elastic averaging: replicas on springs around a centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.peers.peer import Held, Peer, Vector, check_every, check_peers


@dataclass(frozen=True)
class ElasticAveraging:
    r"""Elastic averaging stochastic gradient descent (EASGD), in its synchronous form.

    Every tau steps

    .. math:: x_k \leftarrow x_k - a\, g_k(x_k) - b\,(x_k - c), \qquad c \leftarrow c + b \sum_k (x_k - c) ,

    both from the :math:`x_k` and c of before, b = beta / p with p workers [1]_; in the steps between there is no
    spring. The centre c is the model that comes out. Peer 0 keeps it; it begins at peer 0's vector. The other workers
    send :math:`x_k`, and step while c comes, which waits for all replicas of the exchange before, not of this one.

    Parameters
    ----------
    beta : float, default 0.9
        0 < beta <= 1, within which the centre never goes beyond the replicas' mean.
    every : int, default 1
        tau, steps, >= 1.
    server : bool, default False
        Whether peer 0 only keeps the centre; otherwise it is a worker as well.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] S. Zhang, A. Choromanska, Y. LeCun, "Deep learning with elastic averaging SGD", NeurIPS 2015,
       arXiv:1412.6651, equations 5 and 6.
    """

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
            check_peers(peers, 3, "with server = true peer 0 does not train, and one worker has nobody to average with")
        check_peers(peers)

    async def run(self, peer: Peer, x: Vector, steps: int) -> Held:
        """Go `steps` steps."""
        return await (self._keep if peer.number == 0 else self._work)(peer, x, steps)

    def _strength(self, peer: Peer) -> float:
        """The constant b."""
        return self.beta / (peer.peers - self.server)

    async def _work(self, peer: Peer, x: Vector, steps: int) -> Held:
        """Take the steps of a worker that does not keep the centre."""
        b = self._strength(peer)
        for step in range(1, steps + 1):
            if step % self.every:
                x = await peer.step(x, step)
            else:
                peer.send(0, x)
                stepped = await peer.step(x, step)
                x = np.asarray(stepped - b * (x - await peer.receive(0, x)))
            peer.note(step, Held(x))
        return Held(x)

    async def _keep(self, peer: Peer, x: Vector, steps: int) -> Held:
        """Keep the centre, and take a worker's steps too, unless peer 0 is a server."""
        b, centre = self._strength(peer), x.copy()
        for step in range(1, steps + 1):
            meets = step % self.every == 0
            if meets:
                for k in range(1, peer.peers):
                    peer.send(k, centre)
            stepped = x if self.server else await peer.step(x, step)
            if meets:
                pull = np.zeros_like(centre)
                if not self.server:
                    pull = x - centre
                    stepped = np.asarray(stepped - b * pull)
                for k in range(1, peer.peers):  # in the order of numbers, so that rounding is the same each time
                    pull = pull + (await peer.receive(k, centre) - centre)
                centre = np.asarray(centre + b * pull)
            x = stepped
            peer.note(step, self._held(x, centre))
        return self._held(x, centre)

    def _held(self, x: Vector, centre: Vector) -> Held:
        """A server has no replica."""
        return Held(None if self.server else x, centre)
