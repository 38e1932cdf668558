"""DiSCO: a damped Newton method whose conjugate gradients run across the devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from strategies.giant import NEGATIVE_CURVATURE
from strategies.iterations import Figures, Iterations
from strategies.iterative import (
    IterativeStrategy,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
)
from strategies.mean_exchange import MeanExchange, Vector


@dataclass(frozen=True)
class _Solve:
    """What conjugate gradients came to: v, H v, their steps, and whether curvature was positive throughout."""

    v: Vector
    product: Vector
    steps: int
    convex: bool


class Disco(IterativeStrategy):
    r"""DiSCO (Zhang and Xiao, ICML 2015), without preconditioner, as a Flower strategy.

    With g and H the gradient and Hessian of :math:`f = \frac1m \sum_i f_i`, an iteration is

    1. devices send :math:`\nabla f_i(w)`; the server takes the mean g;
    2. the server solves :math:`H v = g` by conjugate gradients from v = 0 until
       :math:`\|H v - g\| \le \mathrm{tolerance}\,\|g\|`; each product Hu is an exchange, the mean of :math:`H_i u`;
    3. :math:`w \leftarrow w - v / (1 + \delta)`, :math:`\delta = \sqrt{v^T H v}`.

    Counted as by the authors of DINGO: with k products 3 + 2 k communication rounds an iteration, one less in the
    first, where nothing need be broadcast before the gradient, and one more where the solve reached its tolerance.
    Two of these broadcasts (of g, and of the end of the solve) need no message here, as the server runs the solve.
    Means are plain, over the devices.

    Parameters
    ----------
    gradient_tolerance : float
        The run ends where the norm of the gradient is at most this.
    inner_tolerance : float
        As above.
    inner_iterations : int
        At most so many products.
    negative_curvature : {"stop", "truncate"}
        If the solve meets a direction of non-positive curvature, as it may if f is not convex: "stop" ends the run, as
        the authors' code does, with an iteration whose figure ``stopped`` says so; "truncate" takes what it had
        reached, or g itself in the first step, as truncated Newton methods do; there is no line search, so that f may
        rise then.
    on_iteration : callable, optional
        Called with each iteration's figures; see docs/record.md.

    Attributes
    ----------
    TUNING_GRID : mapping
        Values worth trying: a loose solve costs fewer rounds, an exact one gains more by each iteration.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Y. Zhang, L. Xiao, "DiSCO: distributed optimization for self-concordant empirical loss", ICML 2015, PMLR 37:362-370.
    """

    TUNING_GRID: ClassVar[Mapping[str, Sequence[Any]]] = {
        "inner_iterations": (5, 10, 20, 50, 100),
        "inner_tolerance": (1e-1, 1e-2, 1e-4),
    }

    def __init__(
        self,
        gradient_tolerance: float = 1e-8,
        inner_tolerance: float = 1e-4,
        inner_iterations: int = 50,
        negative_curvature: str = "stop",
        on_iteration: Callable[[Figures], None] | None = None,
    ) -> None:
        check_positive(inner_tolerance=inner_tolerance)
        check_not_negative(gradient_tolerance=gradient_tolerance)
        check_counts(inner_iterations=inner_iterations)
        check_choice(NEGATIVE_CURVATURE, negative_curvature=negative_curvature)
        self.gradient_tolerance = gradient_tolerance
        self.inner_tolerance = inner_tolerance
        self.inner_iterations = int(inner_iterations)
        self.truncates = negative_curvature == "truncate"
        self.on_iteration = on_iteration

    def begin(self, exchange: MeanExchange, w: Vector) -> _Run:
        """A run from the initial model."""
        return _Run(self, exchange, w)


class _Run(Iterations):
    """The iterations of one run."""

    def __init__(self, strategy: Disco, exchange: MeanExchange, w: Vector) -> None:
        super().__init__("DiSCO", exchange, w)
        self.strategy = strategy

    def attempt(self, iteration: int, nodes: frozenset[int]) -> Figures | None:
        """One iteration; its figures, or None if there is nothing left to gain."""
        look = self.look_unless_diverged(nodes)
        if (reason := look.diverged) is not None:
            return self.figures(iteration, look, 0.0, stopped=reason)
        self.communication_rounds += 1  # the broadcast of g
        if look.gradient_norm <= self.strategy.gradient_tolerance:
            return None
        solve = self._solve(look.gradient)
        if not solve.convex and not self.strategy.truncates:
            reason = (
                f"conjugate gradients met non-positive curvature in step {solve.steps + 1}: the objective is not "
                'convex there; negative_curvature = "truncate" goes on with what they had reached'
            )
            return self.figures(iteration, look, 0.0, inner_steps=solve.steps, stopped=reason)
        delta = np.sqrt(max(float(np.dot(solve.v, solve.product)), 0.0))
        step_size = float(1 / (1 + delta))
        self.w = (self.w - step_size * solve.v).astype(self.w.dtype)
        return self.figures(iteration, look, step_size, inner_steps=solve.steps)

    def _solve(self, g: Vector) -> _Solve:
        """Conjugate gradients on H v = g."""
        v, product = np.zeros_like(g), np.zeros_like(g)
        r, u = g, g
        for steps in range(self.strategy.inner_iterations):
            u = u.astype(self.w.dtype)  # what the devices are sent
            of_u = self.ask("curvature", {"product": 1}, vectors={"vector": u}).vectors["product"]
            curvature = float(np.dot(u, of_u))
            if curvature <= 0:
                # g lies in the null space at best: no length to damp by.
                return _Solve(v if steps else g, product, steps, convex=False)
            alpha = float(np.dot(r, r)) / curvature
            v, product, before = v + alpha * u, product + alpha * of_u, r
            r = r - alpha * of_u
            if np.linalg.norm(product - g) <= self.strategy.inner_tolerance * np.linalg.norm(g):
                self.communication_rounds += 1  # the broadcast that ends the solve
                return _Solve(v, product, steps + 1, convex=True)
            u = r + float(np.dot(r, r) / np.dot(before, before)) * u
        return _Solve(v, product, self.strategy.inner_iterations, convex=True)
