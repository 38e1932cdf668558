"""LSMR: damped least squares with a symmetric operator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clients.krylov.bidiagonal_factors import BidiagonalFactors
from clients.krylov.linear_system import LinearSystem, Operator, norm, require_at_least
from clients.krylov.solution import Solution, Stopped


def lsmr(
    operator: Operator, b: Tensor, *, damping: float = 0.0, tolerance: float = 1e-4, maximum_iterations: int = 50
) -> Solution:
    r"""Minimise the norm of the stacked residual, for symmetric H and damping :math:`\varphi`:

    .. math:: \min_x \left\| \begin{pmatrix} b \\ 0 \end{pmatrix} - \tilde{H} x \right\|, \qquad
              \tilde{H} = \begin{pmatrix} H \\ \varphi I \end{pmatrix}, \qquad
              x = \tilde{H}^+ \begin{pmatrix} b \\ 0 \end{pmatrix} = (H^2 + \varphi^2 I)^{-1} H b.

    The iterate k minimises :math:`\|\tilde{H}^T \tilde r\|` over the Krylov space of :math:`H^2` and :math:`H b`. The
    damping goes into the rotations, so no vector of length 2 d exists; iterates and stopping rules are those of LSMR on
    the stack.

    It stops after a step at the first that holds of: :math:`\|\tilde r\| / \|b\| \le` ``tolerance``;
    :math:`\|\tilde r\| / (\|b\| + \|\tilde H\|\|x\|)` at rounding level;
    :math:`\|\tilde{H}^T \tilde r\| / (\|\tilde H\|\|\tilde r\|)` at rounding level; ``maximum_iterations``. A b outside
    the range of :math:`\tilde H` by more than the tolerance therefore takes all iterations.

    Parameters
    ----------
    operator : callable
        v ↦ H v on tensors of shape (d,), H symmetric. Two products a step and one before the first.
    b : Tensor of shape (d,)
        Right-hand side; its dtype and device are those of the solve.
    damping : float
        :math:`\varphi`, at least 0.
    tolerance : float
        Bound on the relative residual of the stack.
    maximum_iterations : int
        Bound on the steps.

    Returns
    -------
    Solution
        ``relative_residual`` is that of the stack. x = 0 if H b = 0.

    Raises
    ------
    ValueError
        If b is not a real vector, or a limit or the damping is negative.

    Notes
    -----
    D. C.-L. Fong and M. A. Saunders, LSMR: an iterative algorithm for sparse least-squares problems, SIAM J. Sci.
    Comput. 33 (5), 2011. With :math:`B_k` the bidiagonal matrix of H, that of the stack has
    :math:`\tilde{B}_k^T \tilde{B}_k = B_k^T B_k + \varphi^2 I`: the same Krylov space, and the norm estimate
    :math:`\|\tilde{H}\|^2 \approx \|B_k\|_F^2 + k \varphi^2`.
    """
    system = LinearSystem(operator, b, tolerance, maximum_iterations)
    require_at_least(0, "damping", damping)
    u = system.b.clone()
    beta = b_norm = norm(u)
    x = torch.zeros_like(u)
    if b_norm == 0:
        return Solution(x, 0, Stopped.ZERO_SOLUTION, 0.0, 0)
    v = system.apply(u.div_(beta)).clone()
    alpha = norm(v)
    if not math.isfinite(alpha):
        return Solution(x, 0, Stopped.NOT_FINITE, 1.0, system.applications)
    if alpha == 0:
        return Solution(x, 0, Stopped.ZERO_SOLUTION, 1.0, system.applications)
    factors = BidiagonalFactors(alpha, beta, damping)
    h = v.div_(alpha).clone()
    h_bar = torch.zeros_like(h)
    stopped = None if maximum_iterations > 0 else Stopped.MAXIMUM_ITERATIONS
    while stopped is None:
        u = torch.sub(system.apply(v), u, alpha=alpha)
        beta = norm(u)
        if beta > 0:
            v = torch.sub(system.apply(u.div_(beta)), v, alpha=beta)
            alpha = norm(v)
            if alpha > 0:
                v.div_(alpha)
        if not math.isfinite(alpha + beta):
            stopped = Stopped.NOT_FINITE
            break
        step = factors.append(alpha, beta)
        h_bar.mul_(-step.h_bar).add_(h)
        x.add_(h_bar, alpha=step.x)
        h.mul_(-step.h).add_(v)
        stopped = _stopped(system, factors, b_norm, norm(x), tolerance, maximum_iterations)
    return Solution(x, factors.columns, stopped, factors.residual_norm / b_norm, system.applications)


def _stopped(
    system: LinearSystem,
    factors: BidiagonalFactors,
    b_norm: float,
    x_norm: float,
    tolerance: float,
    maximum_iterations: int,
) -> Stopped | None:
    relative_residual = factors.residual_norm / b_norm
    if relative_residual <= tolerance:
        return Stopped.RESIDUAL
    size = factors.operator_norm * factors.residual_norm
    # a product that underflows to 0 is at rounding level as well
    normal_residual = factors.normal_residual_norm / size if size > 0 else 0.0
    rules = (
        (
            system.rounds_away(relative_residual / (1 + factors.operator_norm * x_norm / b_norm)),
            Stopped.RESIDUAL_PRECISION,
        ),
        (system.rounds_away(normal_residual), Stopped.LEAST_SQUARES_PRECISION),
        (factors.columns >= maximum_iterations, Stopped.MAXIMUM_ITERATIONS),
    )
    return next((reason for holds, reason in rules if holds), None)
