"""GIANT: the mean of the devices' own Newton directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from strategies.air_grid import AirGrid
from strategies.iterations import Figures, Iterations, Look
from strategies.iterative import (
    IterativeStrategy,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    refuse_separate_codes,
)
from strategies.mean_exchange import MeanExchange, Vector

NEGATIVE_CURVATURE = ("stop", "truncate")
"""What to do where conjugate gradients meet a direction without positive curvature."""


@dataclass(frozen=True)
class _Step:
    """The step that the line search took, and whether it passed."""

    size: float
    passed: bool


class Giant(IterativeStrategy):
    r"""GIANT (Wang, Roosta-Khorasani, Xu and Mahoney, NeurIPS 2018) as a Flower strategy.

    With :math:`f = \frac1m \sum_i f_i`, g its gradient and H_i the devices' Hessians, an iteration is

    1. devices move to the iterate and send :math:`\nabla f_i(w)`; the server takes the mean g;
    2. devices send :math:`H_i^{-1} g`, by conjugate gradients; :math:`p = -\overline{H_i^{-1} g}`;
    3. devices send f_i at all trial points as scalars; the largest of :math:`\alpha = 1, \frac12, \frac14, \dots` with
       :math:`f(w + \alpha p) \le f(w) + \alpha \rho \langle p, g \rangle`.

    On an uplink with noise the vectors are received with it; the values of f are scalars, which are exact. Nothing
    else guards it there, as it does DINGO (:mod:`strategies.dingo_over_the_air`): it is a comparator.

    Counted as by the authors of DINGO: 6 communication rounds an iteration, 5 in the first, where nothing need be
    broadcast before the gradient. Means are plain, over the devices. With one device it is Newton-CG.

    Parameters
    ----------
    rho : float
        As above; > 0 and < 1.
    gradient_tolerance : float
        The run ends where the norm of the gradient is at most this.
    inner_tolerance : float
        Of conjugate gradients, see :func:`clients.krylov.conjugate_gradients`.
    inner_iterations : int
        At most so many of their iterations.
    line_search_steps : int
        Steps tried: 1 to :math:`2^{1-n}`. If none passes the smallest is taken.
    failed_searches : int
        The run ends after so many iterations in a row whose search found no step.
    negative_curvature : {"stop", "truncate"}
        If a device's conjugate gradients meet a direction of non-positive curvature, as they may if f is not convex:
        "stop" ends the run, as the authors' code does, with an iteration whose figure ``stopped`` says so; "truncate"
        takes what they had reached, or g itself in the first step, as truncated Newton methods do.
    on_iteration : callable, optional
        Called with each iteration's figures; see docs/record.md.

    Attributes
    ----------
    TUNING_GRID : mapping
        Values worth trying: the local iterations are the one parameter that the paper leaves to be tuned.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    S. Wang, F. Roosta-Khorasani, P. Xu, M. W. Mahoney, "GIANT: globally improved approximate Newton method for
    distributed optimization", NeurIPS 2018, arXiv:1709.03528.
    """

    TUNING_GRID: ClassVar[Mapping[str, Sequence[Any]]] = {"inner_iterations": (10, 20, 50, 100, 200)}

    def __init__(
        self,
        rho: float = 1e-4,
        gradient_tolerance: float = 1e-8,
        inner_tolerance: float = 1e-4,
        inner_iterations: int = 50,
        line_search_steps: int = 50,
        failed_searches: int = 3,
        negative_curvature: str = "stop",
        on_iteration: Callable[[Figures], None] | None = None,
    ) -> None:
        check_positive(rho=rho, inner_tolerance=inner_tolerance)
        if rho >= 1:
            raise ValueError(f"rho = {rho!r}: accepted: a number > 0 and < 1")
        check_not_negative(gradient_tolerance=gradient_tolerance)
        check_counts(
            inner_iterations=inner_iterations, line_search_steps=line_search_steps, failed_searches=failed_searches
        )
        check_choice(NEGATIVE_CURVATURE, negative_curvature=negative_curvature)
        self.rho = rho
        self.gradient_tolerance = gradient_tolerance
        self.steps = [2.0**-k for k in range(int(line_search_steps))]
        self.failed_searches = int(failed_searches)
        self.truncates = negative_curvature == "truncate"
        self.on_iteration = on_iteration
        self.solver = {"inner-tolerance": float(inner_tolerance), "inner-iterations": int(inner_iterations)}

    def begin(self, exchange: MeanExchange, w: Vector) -> _Run:
        """A run from the initial model."""
        if isinstance(exchange.grid, AirGrid):
            refuse_separate_codes(exchange.grid.uplink, '"uncoded"')
        return _Run(self, exchange, w)


class _Run(Iterations):
    """The iterations of one run."""

    def __init__(self, strategy: Giant, exchange: MeanExchange, w: Vector) -> None:
        super().__init__("GIANT", exchange, w)
        self.strategy = strategy
        self.moved: float | None = None  # step by which the devices' own copy lags behind
        self.failed = 0

    def state(self) -> dict[str, Any]:
        """And by how much the devices lag behind, and how many searches failed."""
        return super().state() | {"moved": self.moved, "failed": self.failed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`strategies.iterations.Iterations.restore`."""
        super().restore(state)
        self.moved, self.failed = state["moved"], state["failed"]

    def attempt(self, iteration: int, nodes: frozenset[int]) -> Figures | None:
        """One iteration; its figures, or None if there is nothing left to gain."""
        strategy, dtype = self.strategy, self.w.dtype
        if self.failed >= strategy.failed_searches:
            return None
        look = self._look(nodes)
        if look.gradient_norm <= strategy.gradient_tolerance:
            return None
        vectors = {"gradient": look.gradient.astype(dtype)}
        means = self.ask("newton", {"newton": 1}, scalars={"failed": 1}, vectors=vectors, config=strategy.solver)
        failures = round(float(means.scalars["failed"]) * len(self.nodes))
        if failures and not strategy.truncates:
            return self.figures(iteration, look, 0.0, stopped=_failure(failures, len(self.nodes)))
        p = (-means.vectors["newton"]).astype(dtype)
        slope = float(np.dot(p, look.gradient))
        step = self._line_search(look, p, slope)
        self.failed = 0 if step.passed else self.failed + 1
        self.w, self.moved = (self.w + step.size * p).astype(dtype), step.size
        return self.figures(iteration, look, step.size, slope=slope, step_passed=step.passed, failed_solves=failures)

    def _look(self, nodes: frozenset[int]) -> Look:
        """Gradient at the iterate; who took part in the last iteration need only be told the step."""
        if self.moved is None or nodes != self.nodes:
            return self.look(nodes)
        return self.look(nodes, "step", vectors={}, config={"step-size": self.moved})

    def _line_search(self, look: Look, p: Vector, slope: float) -> _Step:
        """The largest step that lowers the objective enough; the smallest if none does."""
        steps = self.strategy.steps
        means = self.ask(
            "values", {}, scalars={"objectives": len(steps)}, vectors={"direction": p}, config={"steps": steps}
        )
        for size, value in zip(steps, np.atleast_1d(means.scalars["objectives"]), strict=True):
            if value <= look.objective + size * self.strategy.rho * slope:
                return _Step(size, True)
        return _Step(steps[-1], False)


def _failure(failures: int, devices: int) -> str:
    return (
        f"conjugate gradients met non-positive curvature on {failures} of {devices} devices: the objective is not "
        'convex there; negative_curvature = "truncate" goes on with what they had reached'
    )
