"""DINGO: a distributed Newton-type method that lowers the norm of the gradient, in few exchanges and without tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from channel.codes import RandomLinearCode
from channel.uplinks import IdealUplink
from strategies.air_grid import AirGrid
from strategies.dingo_over_the_air import CertifiedIterations, Safeguards
from strategies.iterations import Figures, Iterations, NobodyAnswers, Vanished
from strategies.iterative import (
    IterativeStrategy,
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
    refuse_separate_codes,
)
from strategies.mean_exchange import MeanExchange, Vector

__all__ = ["EXCHANGES", "Dingo", "NobodyAnswers", "Vanished"]

EXCHANGES = ("lean", "official")
OVER_THE_AIR = ("auto", "safe", "as-published", "no")


@dataclass
class _Point:
    """What is known of an iterate: the mean objective and gradient there."""

    objective: float = 0.0
    gradient: Vector | None = None
    moved: float | None = None  # step by which the devices' own copy lags behind
    communication_rounds: int = 0  # that it took to get here


@dataclass(frozen=True)
class _Direction:
    """An update direction p, the case it comes from, and its slope <p, H g>."""

    p: Vector
    case: int
    slope: float


@dataclass(frozen=True)
class _Step:
    """The step 2^-k that the line search took, and what is known where it leads."""

    size: float
    objective: float
    gradient: Vector
    passed: bool


class Dingo(IterativeStrategy):
    r"""DINGO (Crane and Roosta, NeurIPS 2019) as a Flower strategy.

    With :math:`f = \frac1m \sum_i f_i`, g its gradient and H_i the devices' Hessians, an iteration is

    1. devices send :math:`H_i g` and :math:`H_i^\dagger g` (MINRES-QLP); the server takes the means;
    2. **case 1**: :math:`p = -\overline{H_i^\dagger g}` if :math:`\langle p, Hg\rangle \le -\theta\|g\|^2`;
       **case 2**: else the same with :math:`\tilde H_i^\dagger \tilde g`, where
       :math:`\tilde H_i = [H_i; \varphi I]`, :math:`\tilde g = [g; 0]` (LSMR);
       **case 3**: else each device corrects its own, so that :math:`\langle p_i, Hg\rangle \le -\theta\|g\|^2`;
    3. the largest of :math:`\alpha = 1, \frac12, \frac14, \dots` with
       :math:`\|\nabla f(w + \alpha p)\|^2 \le \|g\|^2 + 2\alpha\rho\langle p, Hg\rangle`.

    Means are plain, over the devices, as in the official code.

    Parameters
    ----------
    theta, phi, rho : float
        As above; > 0, and rho < 1.
    gradient_tolerance : float
        The run ends where the norm of the gradient is at most this.
    inner_tolerance : float
        Of the devices' solves, see :mod:`clients.krylov`.
    inner_iterations : int, optional
        At most so many iterations of a solve; 50, over_the_air="safe" 20.
    line_search_steps : int, optional
        Steps tried: 1 to :math:`2^{1-n}`. If none passes the smallest is taken. 50, over_the_air="safe" 16.
    failed_searches : int
        The run ends after so many iterations in a row whose search found no step.
    exchange : {"lean", "official"}
        "official": the message pattern of the authors' code: both solves always, all trial steps at once. "lean": the
        second solve only where case 1 fails, trial steps in growing blocks. The iterates are the same.
    on_iteration : callable, optional
        Called with each iteration's figures; see docs/record.md.
    over_the_air : {"auto", "safe", "as-published", "no"}
        "safe": the iterations of :class:`~strategies.dingo_over_the_air.CertifiedIterations`, of two vectors each;
        theta, rho, gradient_tolerance and inner_tolerance are theirs too. "as-published": the exchanges above,
        whatever the link makes of them. "no": the same, and refused on a link with noise. "auto": "safe" on a link
        with noise, else "no".
    damping, least_damping, most_damping, gradient_energy, equal_below_db, discrepancy : float
        Of "safe" only, see :class:`~strategies.dingo_over_the_air.Safeguards`.
    coded_exchanges : bool
        Allow "safe" on an uplink with a code, which bounds its SNR whatever the energy.
    subspace : float or RandomLinearCode
        Of "safe" only: the share of the dimensions that each iteration is confined to, a new random subspace each
        time, or the code that has that ratio; 1 for no subspace.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    R. Crane, F. Roosta, "DINGO: distributed Newton-type method for gradient-norm optimization", NeurIPS 2019,
    arXiv:1901.05134.
    """

    def __init__(
        self,
        theta: float = 1e-4,
        phi: float = 1e-6,
        rho: float = 1e-4,
        gradient_tolerance: float = 1e-8,
        inner_tolerance: float = 1e-4,
        inner_iterations: int | None = None,
        line_search_steps: int | None = None,
        failed_searches: int = 3,
        exchange: str = "lean",
        on_iteration: Callable[[Figures], None] | None = None,
        over_the_air: str = "auto",
        damping: float = 1e-2,
        least_damping: float = 1e-4,
        gradient_energy: float = 1.6,
        equal_below_db: float = -10.0,
        coded_exchanges: bool = False,
        subspace: float | RandomLinearCode = 1.0,
        discrepancy: float = 0.5,
        most_damping: float = 1.0,
    ) -> None:
        check_choice(OVER_THE_AIR, over_the_air=over_the_air)
        self.over_the_air, self.coded_exchanges = over_the_air, coded_exchanges
        self.safeguards = Safeguards(
            theta, rho, gradient_tolerance, inner_tolerance, inner_iterations or 20, line_search_steps or 16,
            damping, least_damping, gradient_energy, equal_below_db, _share(subspace), discrepancy, most_damping,
        )  # fmt: skip
        if self.safeguards.subspace < 1 and over_the_air in ("no", "as-published"):
            raise ValueError(f"subspace = {subspace!r}: over_the_air = {over_the_air!r} knows none; accepted: 1")
        inner_iterations = 50 if inner_iterations is None else inner_iterations
        line_search_steps = 50 if line_search_steps is None else line_search_steps
        check_positive(theta=theta, phi=phi, rho=rho, inner_tolerance=inner_tolerance)
        check_counts(
            inner_iterations=inner_iterations, line_search_steps=line_search_steps, failed_searches=failed_searches
        )
        if rho >= 1:
            raise ValueError(f"rho = {rho!r}: accepted: a number > 0 and < 1")
        check_not_negative(gradient_tolerance=gradient_tolerance)
        check_choice(EXCHANGES, exchange=exchange)
        self.theta, self.phi, self.rho = theta, phi, rho
        self.gradient_tolerance = gradient_tolerance
        self.line_search_steps = int(line_search_steps)
        self.failed_searches = int(failed_searches)
        self.official = exchange == "official"
        self.on_iteration = on_iteration
        self.solver = {
            "theta": float(theta),
            "phi": float(phi),
            "inner-tolerance": float(inner_tolerance),
            "inner-iterations": int(inner_iterations),
        }

    def begin(self, exchange: MeanExchange, w: Vector) -> Iterations:
        """A run from the initial model."""
        uplink = exchange.grid.uplink if isinstance(exchange.grid, AirGrid) else IdealUplink()
        mode, noisy = self.over_the_air, not isinstance(uplink, IdealUplink)
        if noisy and mode == "no":
            accepted = ", ".join(m for m in OVER_THE_AIR if m != "no")
            raise ValueError(f"over_the_air = 'no': {type(uplink).__name__} has noise; accepted: {accepted}")
        if mode in ("auto", "safe") and not self.coded_exchanges:
            refuse_separate_codes(uplink, '"uncoded", or strategy.coded_exchanges = true')
        if mode == "safe" or (mode == "auto" and (noisy or self.safeguards.subspace < 1)):
            return CertifiedIterations(self.safeguards, exchange, w)
        return _Run(self, exchange, w)


def _share(subspace: float | RandomLinearCode) -> float:
    """The ratio, of a code its own."""
    if not isinstance(subspace, RandomLinearCode):
        return subspace
    if "ratio" not in subspace.parameters:
        raise ValueError(f"subspace = {subspace!r}: accepted: a code with a ratio, or a number > 0 and <= 1")
    return float(subspace.parameters["ratio"])


class _Run(Iterations):
    """The iterations of one run."""

    def __init__(self, strategy: Dingo, exchange: MeanExchange, w: Vector) -> None:
        super().__init__("DINGO", exchange, w)
        self.strategy = strategy
        self.point = _Point()
        self.failed = 0

    def state(self) -> dict[str, Any]:
        """And what is known of the iterate, and how many searches failed."""
        return super().state() | {"point": vars(self.point).copy(), "failed": self.failed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`strategies.iterations.Iterations.restore`."""
        super().restore(state)
        self.point, self.failed = _Point(**state["point"]), state["failed"]

    def attempt(self, iteration: int, nodes: frozenset[int]) -> Figures | None:
        """One iteration; its figures, or None if there is nothing left to gain."""
        if self.failed >= self.strategy.failed_searches:
            return None
        if self.point.gradient is None or self.nodes != nodes:
            look = self.look(nodes)
            self.point = replace(self.point, objective=look.objective, gradient=look.gradient, moved=None)
        return self._step_from_here(iteration)

    def _step_from_here(self, iteration: int) -> Figures | None:
        point = self.point
        assert point.gradient is not None
        norm = float(np.linalg.norm(point.gradient))
        if norm <= self.strategy.gradient_tolerance:
            return None
        direction = self._direction(point.gradient, norm)
        step = self._line_search(direction, norm)
        figures = {
            "iteration": iteration,
            "objective": point.objective,
            "gradient_norm": norm,
            "case": direction.case,
            "step_size": step.size,
            "slope": direction.slope,
            "step_passed": step.passed,
            "communication_rounds": point.communication_rounds,
            **self.traffic(),
        }
        self.failed = 0 if step.passed else self.failed + 1
        self.w = (self.w + step.size * direction.p).astype(self.w.dtype)
        self.point = _Point(
            step.objective,
            step.gradient if np.isfinite(step.objective) else None,
            moved=step.size,
            communication_rounds=self.communication_rounds,
        )
        return figures

    def _direction(self, gradient: Vector, norm: float) -> _Direction:
        """The three cases."""
        bound, dtype = -self.strategy.theta * norm**2, self.w.dtype
        wanted = {"hessian_gradient": 1, "newton": 1} | ({"damped": 1} if self.strategy.official else {})
        lag = {} if self.point.moved is None else {"step-size": self.point.moved}
        means = self.ask(
            "directions", wanted, vectors={"gradient": gradient.astype(dtype)}, config={**self.strategy.solver, **lag}
        )
        curved = means.vectors["hessian_gradient"]
        direction = _towards(means.vectors["newton"], curved, dtype, case=1)
        if direction.slope <= bound:
            return direction
        if not self.strategy.official:
            means = self.ask("damped", {"damped": 1}, config=self.strategy.solver)
        direction = _towards(means.vectors["damped"], curved, dtype, case=2)
        if direction.slope <= bound:
            return direction
        config = {**self.strategy.solver, "bound": -bound}
        sent = {"hessian_gradient": curved.astype(dtype)}
        means = self.ask("correction", {"corrected": 1}, vectors=sent, config=config)
        return _towards(means.vectors["corrected"], curved, dtype, case=3)

    def _line_search(self, direction: _Direction, norm: float) -> _Step:
        """The largest step that lowers the gradient's norm enough; the smallest if none does."""
        vectors: dict[str, Vector] = {"direction": direction.p}
        step: _Step | None = None
        for exponents in self._trials():
            sizes = [2.0**-k for k in exponents]
            means = self.ask(
                "trial",
                {"gradients": len(sizes)},
                scalars={"objectives": len(sizes)},
                vectors=vectors,
                config={"steps": sizes},
            )
            vectors = {}
            gradients = means.vectors["gradients"].reshape(len(sizes), -1)
            objectives = np.atleast_1d(means.scalars["objectives"])
            for size, objective, gradient in zip(sizes, objectives, gradients, strict=True):
                bound = norm**2 + 2 * size * self.strategy.rho * direction.slope
                # Where a device overflows, it answers with an infinite objective and no gradient.
                passed = bool(np.isfinite(objective) and float(np.dot(gradient, gradient)) <= bound)
                step = _Step(size, float(objective), gradient, passed)
                if passed:
                    return step
        assert step is not None
        return step

    def _trials(self) -> Iterable[range]:
        """Exponents to try: all at once, or in blocks that double."""
        steps = self.strategy.line_search_steps
        first, length = 0, steps if self.strategy.official else 1
        while first < steps:
            yield range(first, min(first + length, steps))
            first, length = first + length, 2 * length


def _towards(mean: Vector, curved: Vector, dtype: np.dtype[Any], case: int) -> _Direction:
    """The direction as the devices will get it, in the model's own precision."""
    p = (mean if case == 3 else -mean).astype(dtype)
    return _Direction(p, case, float(np.dot(p, curved)))
