"""MINRES-QLP: the minimum-length solution of a symmetric system, singular or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clients.krylov.linear_system import LinearSystem, Operator, dot, norm, require_at_least
from clients.krylov.qlp_factors import QLPFactors
from clients.krylov.solution import Solution, Stopped


def minres_qlp(
    operator: Operator,
    b: Tensor,
    *,
    tolerance: float = 1e-4,
    maximum_iterations: int = 50,
    norm_limit: float = 1e7,
    condition_limit: float = 1e15,
    residual_limit: float | None = None,
    shift: float = 0.0,
) -> Solution:
    r"""Solve A x = b, or else minimise ||A x - b||, for symmetric A: of all minimisers, the shortest.

    Lanczos vectors :math:`V_k` of A and b give :math:`A V_k = V_{k+1} \underline{T}_k`, and the iterate is the shortest
    minimiser of :math:`\|Ax - b\|` over their span,

    .. math:: x_k = V_k P_k \mu, \qquad L_k \mu = t_k, \qquad Q_k \underline{T}_k P_k = \begin{pmatrix} L_k \\ 0
              \end{pmatrix},

    the QLP form being used from the first step on. A may be indefinite and singular, and b outside its range: then
    :math:`x = A^+ b`.

    It stops after a step at the first that holds of (A stands for A + shift I, :math:`\|A\|` for the largest met of
    the norms of T's columns and the entries of L's diagonal)

    1. :math:`\|r\| \le` ``residual_limit``;
    2. :math:`\|r\| / (\|A\|\|x\| + \|b\|) \le` ``tolerance``;
    3. :math:`\|Ar\| / (\|A\|\|r\|) \le` ``tolerance``, of the iterate before;
    4. and 5. the same two at rounding level;
    6. :math:`\epsilon \|A\|\|x\| \ge \|b\|`;
    7. :math:`\|x\| \ge` ``norm_limit``;
    8. cond(A) ≥ ``condition_limit``;
    9. ``maximum_iterations``;
    10. A singular: :math:`\gamma` counts as 0.

    A last step that would exceed ``norm_limit``, or divide by a :math:`\gamma` that counts as 0, is not taken.

    Parameters
    ----------
    operator : callable
        v ↦ A v on tensors of shape (d,), A symmetric. One product a step.
    b : Tensor of shape (d,)
        Right-hand side; its dtype and device are those of the solve.
    tolerance : float
        Bound in 2. and 3.
    maximum_iterations : int
        Bound on the steps.
    norm_limit : float
        Bound on ||x||, absolute.
    condition_limit : float
        Bound on the estimate of cond(A), and on 1/eps at most: a :math:`\gamma` smaller than :math:`\|A\|` by this
        factor counts as 0, its step is not taken. See Notes for b outside the range of A.
    residual_limit : float or None
        Absolute bound on ||r||, for a b that is known to no better; x = 0 if ||b|| is within it already.
    shift : float
        Solve with A + shift I.

    Returns
    -------
    Solution
        With the step that met the stopping rule included, also where the rule is about the iterate before it.

    Raises
    ------
    ValueError
        If b is not a real vector, a limit is negative, or ``condition_limit`` is below 1.

    Notes
    -----
    S.-C. T. Choi, C. C. Paige and M. A. Saunders, MINRES-QLP: a Krylov subspace method for indefinite or singular
    symmetric systems, SIAM J. Sci. Comput. 33 (4), 2011; stopping rules in the order of its authors' code. Lanczos
    vectors are not reorthogonalised, so past the first few steps rounding decides the digits of an iterate that has
    not converged.

    If b is outside the range of A, the iterates have a part in its null space until the step whose :math:`\gamma` is 0,
    and with :math:`\gamma` merely small that step divides by it: where 3. stops the solve, x may be far from
    :math:`A^+ b` although its residual is right. A ``condition_limit`` c between the condition of A on its range and
    1/eps leaves that step out; x is then :math:`A^+ b` to about 1/c + c eps, at best the root of eps unless A has so
    few distinct eigenvalues that :math:`\gamma` drops to 0 at once. With ``tolerance=0`` it is c that ends the solve.
    """
    system = LinearSystem(operator, b, tolerance, maximum_iterations)
    limits = _Limits(tolerance, maximum_iterations, norm_limit, condition_limit, residual_limit)
    return _MinresQLP(system, limits, shift).solve()


@dataclass(frozen=True)
class _Limits:
    tolerance: float
    maximum_iterations: int
    norm_limit: float
    condition_limit: float
    residual_limit: float | None

    def __post_init__(self) -> None:
        require_at_least(0, "norm_limit", self.norm_limit)
        require_at_least(1, "condition_limit", self.condition_limit)
        require_at_least(0, "residual_limit", self.residual_limit or 0.0)

    def within_residual_limit(self, residual_norm: float) -> bool:
        return self.residual_limit is not None and residual_norm <= self.residual_limit


class _MinresQLP:
    def __init__(self, system: LinearSystem, limits: _Limits, shift: float) -> None:
        self.system = system
        self.limits = limits
        self.shift = shift
        self.b_norm = norm(system.b)
        self.eps = torch.finfo(system.b.dtype).eps
        zero = max(self.eps, 1 / limits.condition_limit)
        self.factors = QLPFactors(self.b_norm, limits.norm_limit, zero)
        self.settled = torch.zeros_like(system.b)  # the part of x that no later reflection touches
        self.direction_1 = self.direction = torch.zeros_like(system.b)  # the last two columns of V P

    def solve(self) -> Solution:
        stopped = self._stopped_before_the_first_step()
        v_previous, beta = torch.zeros_like(self.settled), 0.0
        v = self.system.b / self.b_norm if stopped is None else self.settled
        while stopped is None:
            p = self.system.apply(v)
            if self.shift != 0:
                p = torch.add(p, v, alpha=self.shift)
            p = torch.add(p, v_previous, alpha=-beta)
            alpha = dot(p, v)
            p.sub_(v, alpha=alpha)
            beta_next = norm(p)
            if not math.isfinite(alpha + beta_next):
                return self._solution(Stopped.NOT_FINITE)
            if self.factors.columns == 0 and beta_next == 0:
                return self._solution_for_an_eigenvector(alpha)
            self.factors.append(alpha, beta, beta_next)
            self._turn_directions(v)
            stopped = self._stopped()
            if stopped is None:
                v_previous, v, beta = v, p.div_(beta_next), beta_next
        return self._solution(stopped)

    def _stopped_before_the_first_step(self) -> Stopped | None:
        if not math.isfinite(self.b_norm):
            return Stopped.NOT_FINITE
        if self.b_norm == 0:
            return Stopped.ZERO_SOLUTION
        if self.limits.within_residual_limit(self.b_norm):
            return Stopped.RESIDUAL_LIMIT
        return Stopped.MAXIMUM_ITERATIONS if self.limits.maximum_iterations == 0 else None

    def _turn_directions(self, v: Tensor) -> None:
        factors = self.factors
        settled, turned = factors.right_2.of_vectors(self.direction_1, v)
        self.direction_1, self.direction = factors.right.of_vectors(self.direction, turned)
        self.settled.add_(settled, alpha=factors.mu_2)

    def _stopped(self) -> Stopped | None:
        factors, limits = self.factors, self.limits
        if factors.over_norm_limit:
            return Stopped.NORM_LIMIT
        size = factors.operator_norm * factors.solution_norm
        residual = factors.residual_norm / (size + self.b_norm)
        least_squares = factors.least_squares_root / factors.operator_norm if factors.operator_norm > 0 else 0.0
        rules = (
            (limits.within_residual_limit(factors.residual_norm), Stopped.RESIDUAL_LIMIT),
            (residual <= limits.tolerance, Stopped.RESIDUAL),
            (least_squares <= limits.tolerance, Stopped.LEAST_SQUARES),
            (self.system.rounds_away(residual), Stopped.RESIDUAL_PRECISION),
            (self.system.rounds_away(least_squares), Stopped.LEAST_SQUARES_PRECISION),
            (size * self.eps >= self.b_norm, Stopped.NULL_VECTOR),
            (factors.solution_norm >= limits.norm_limit, Stopped.NORM_LIMIT),
            (factors.condition >= limits.condition_limit, Stopped.CONDITION_LIMIT),
            (factors.columns >= limits.maximum_iterations, Stopped.MAXIMUM_ITERATIONS),
            (factors.singular, Stopped.SINGULAR),
        )
        return next((reason for holds, reason in rules if holds), None)

    def _solution(self, stopped: Stopped) -> Solution:
        factors = self.factors
        x = torch.add(self.settled, self.direction_1, alpha=factors.mu_1).add_(self.direction, alpha=factors.mu)
        relative_residual = factors.residual_norm / self.b_norm if self.b_norm > 0 else 0.0
        return Solution(x, factors.columns, stopped, relative_residual, self.system.applications)

    def _solution_for_an_eigenvector(self, eigenvalue: float) -> Solution:
        b, applications = self.system.b, self.system.applications
        if eigenvalue == 0:
            return Solution(torch.zeros_like(b), 1, Stopped.ZERO_SOLUTION, 1.0, applications)
        return Solution(b / eigenvalue, 1, Stopped.EIGENVECTOR, 0.0, applications)
