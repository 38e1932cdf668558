"""The asynchronous parameter server: every update moves the model when it arrives."""

from __future__ import annotations

import math

from strategies.mean_exchange import Vector
from strategies.systems.server_run import ServerRun
from strategies.systems.server_system import (
    ACCEPTED,
    REJECTED,
    ServerSystem,
    check_number,
    check_whole,
    staleness_weight,
)
from strategies.systems.work import Work


class Asynchronous(ServerSystem):
    r"""Asynchronous stochastic gradient descent with a parameter server.

    An update computed from version v, arriving at version t, has staleness s = t - v, and

    .. math:: x_{t+1} = x_t + \eta\, c(s)\, \Delta, \qquad c(s) = (1 + s)^{-q},

    unless :math:`s > s_{\max}`: then it is rejected, and what it cost is spent all the same. The worker gets the fresh
    model and goes on. A round is p arrivals.

    Parameters
    ----------
    server_learning_rate : float, default 1
        eta. Each update counts in full, so that in the time of one synchronous step the model moves p times as far:
        1/p is the step of the mean.
    staleness_exponent : float, default 0
        q >= 0.
    largest_staleness : int, default infinite
        s_max >= 0.
    concurrency : int, default infinite
        How many workers train at a time, >= 1: whoever has waited longest gets the model when one has answered.
    devices : int, optional
        p.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    C. Xie, S. Koyejo, I. Gupta, "Asynchronous federated optimization", 2019, arXiv:1903.03934 (polynomial weights).
    """

    def __init__(
        self,
        server_learning_rate: float = 1.0,
        staleness_exponent: float = 0.0,
        largest_staleness: float = math.inf,
        concurrency: float = math.inf,
        devices: int | None = None,
    ) -> None:
        super().__init__(server_learning_rate, devices)
        check_number("staleness_exponent", staleness_exponent)
        check_whole("largest_staleness", largest_staleness, 0, infinite=True)
        check_whole("concurrency", concurrency, 1, infinite=True)
        self.staleness_exponent = staleness_exponent
        self.largest_staleness = largest_staleness
        self.concurrency = concurrency

    def receive(self, run: ServerRun, work: Work, update: Vector) -> str:
        """A step, unless it is too stale."""
        staleness = run.version - work.version
        if staleness > self.largest_staleness:
            return REJECTED
        rate = self.server_learning_rate * staleness_weight(staleness, self.staleness_exponent)
        run.x = (run.x + rate * update).astype(run.x.dtype, copy=False)
        run.version += 1
        return ACCEPTED
