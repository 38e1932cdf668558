"""Synchronous SGD: a parameter server steps against the mean of the devices' mini-batch gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from strategies.iterations import Figures, Iterations
from strategies.iterative import IterativeStrategy, check_not_negative, check_positive
from strategies.mean_exchange import MeanExchange, Vector


class SynchronousSgd(IterativeStrategy):
    r"""Synchronous stochastic gradient descent with a parameter server, as a Flower strategy.

    In an iteration each device draws :math:`b_i = \lfloor \mathrm{batch\_fraction}\; s_i \rfloor` of its s_i rows with
    replacement (at least one) and sends the gradient of its objective on them, and

    .. math:: w \leftarrow w - \gamma\, \frac1m \sum_i \nabla f_i^{B_i}(w).

    A batch fraction of 1 takes every row once: gradient descent. Counted as by the authors of DINGO: 2 communication
    rounds an iteration, 1 in the first, where nothing need be broadcast. The method does not know the objective nor its
    gradient; the figures are found beside it, over the control channel, and outside of what is counted. Means are
    plain, over the devices. What devices draw is fixed by the run's seed.

    Parameters
    ----------
    learning_rate : float
        gamma > 0.
    batch_fraction : float
        As above; > 0 and <= 1.
    gradient_tolerance : float
        The run ends where the norm of the gradient is at most this.
    on_iteration : callable, optional
        Called with each iteration's figures; see docs/record.md.

    Attributes
    ----------
    TUNING_GRID : mapping
        Values worth trying.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    J. Chen, X. Pan, R. Monga, S. Bengio, R. Jozefowicz, "Revisiting distributed synchronous SGD", ICLR 2016 workshop
    track, arXiv:1604.00981.
    """

    TUNING_GRID: ClassVar[Mapping[str, Sequence[Any]]] = {
        "learning_rate": (1e-3, 1e-2, 1e-1, 1.0, 10.0),
        "batch_fraction": (0.05, 0.2, 1.0),
    }

    def __init__(
        self,
        learning_rate: float = 1e-2,
        batch_fraction: float = 0.2,
        gradient_tolerance: float = 1e-8,
        on_iteration: Callable[[Figures], None] | None = None,
    ) -> None:
        check_positive(learning_rate=learning_rate)
        if not 0 < batch_fraction <= 1:
            raise ValueError(f"batch_fraction = {batch_fraction!r}: accepted: a number > 0 and <= 1")
        check_not_negative(gradient_tolerance=gradient_tolerance)
        self.learning_rate = learning_rate
        self.batch_fraction = batch_fraction
        self.gradient_tolerance = gradient_tolerance
        self.on_iteration = on_iteration

    def begin(self, exchange: MeanExchange, w: Vector) -> _Run:
        """A run from the initial model."""
        return _Run(self, exchange, w)


class _Run(Iterations):
    """The iterations of one run."""

    def __init__(self, strategy: SynchronousSgd, exchange: MeanExchange, w: Vector) -> None:
        super().__init__("synchronous SGD", exchange, w)
        self.strategy = strategy

    def attempt(self, iteration: int, nodes: frozenset[int]) -> Figures | None:
        """One iteration; its figures, or None if there is nothing left to gain."""
        seen = self.monitor(nodes)
        if (reason := seen.diverged) is not None:
            return self.figures(iteration, seen, 0.0, stopped=reason)
        if seen.gradient_norm <= self.strategy.gradient_tolerance:
            return None
        config = {"batch-fraction": float(self.strategy.batch_fraction)}
        sampled = self.look(nodes, "sampled_gradient", {"model": self.w}, config)
        self.w = (self.w - self.strategy.learning_rate * sampled.gradient).astype(self.w.dtype)
        return self.figures(iteration, seen, self.strategy.learning_rate)
