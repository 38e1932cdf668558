"""Local steps of peers: stochastic gradients of quadratics, each with a minimum of its own."""

from __future__ import annotations

import numpy as np

from channel.randomness import generator
from strategies.peers.peer import Vector

RATE, CURVATURE = 0.1, 2.0


def minimum(peer: int, size: int) -> Vector:
    """Where the peer's own loss is least."""
    return generator(3, "minimum", peer).normal(size=size)


def exact_step(peer: int, step: int, x: Vector) -> Vector:
    """Gradient descent on h/2 |x - m|^2."""
    return np.asarray(x - RATE * CURVATURE * (x - minimum(peer, x.size)))


def noisy_step(peer: int, step: int, x: Vector) -> Vector:
    """The same with noise that is named by peer and step."""
    return np.asarray(exact_step(peer, step, x) + 0.01 * generator(5, "noise", peer, step).normal(size=x.size))


def no_step(peer: int, step: int, x: Vector) -> Vector:
    """None: averaging alone."""
    return x


def apart(peers: int, size: int) -> Vector:
    """Where peers begin, shape (p, d)."""
    return generator(1, "apart").normal(size=(peers, size))
