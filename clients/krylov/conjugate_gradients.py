"""Conjugate gradients, keeping the best iterate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clients.krylov.linear_system import LinearSystem, Operator, dot
from clients.krylov.solution import Solution, Stopped


def conjugate_gradients(
    operator: Operator, b: Tensor, *, tolerance: float = 1e-4, maximum_iterations: int = 50
) -> Solution:
    r"""Solve A x = b for symmetric positive definite A, from x = 0.

    .. math:: \alpha = \frac{\|r\|^2}{p^T A p}, \quad x \leftarrow x + \alpha p, \quad r \leftarrow r - \alpha A p,
              \quad p \leftarrow r + \frac{\|r_{\mathrm{new}}\|^2}{\|r\|^2} p,

    until :math:`\|r\|^2 \le \mathrm{tolerance}^2 \|b\|^2` with the r of the recurrence.

    Parameters
    ----------
    operator : callable
        v ↦ A v on tensors of shape (d,).
    b : Tensor of shape (d,)
        Right-hand side; its dtype and device are those of the solve.
    tolerance : float
        Bound on the relative residual.
    maximum_iterations : int
        Bound on the steps, each one product.

    Returns
    -------
    Solution
        The iterate of smallest recurrence residual among those after the first step, which need not be the last:
        CG does not reduce the residual monotonically. A direction p with :math:`p^T A p \le 0` ends the solve with
        ``Stopped.NONPOSITIVE_CURVATURE`` and the best iterate so far (0 if it is the first direction): what to do
        then is the caller's to decide.

    Raises
    ------
    ValueError
        If b is not a real vector, or a limit is negative.

    Notes
    -----
    M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    system = LinearSystem(operator, b, tolerance, maximum_iterations)
    r = system.b.clone()
    x = best = torch.zeros_like(r)
    p = r.clone()
    b_squared = r_squared = best_squared = dot(r, r)
    iterations = 0

    def stopped(reason: Stopped) -> Solution:
        relative_residual = 0.0 if b_squared == 0 else math.sqrt(best_squared / b_squared)
        return Solution(best, iterations, reason, relative_residual, system.applications)

    if b_squared == 0:
        return stopped(Stopped.ZERO_SOLUTION)
    if not math.isfinite(b_squared):
        return stopped(Stopped.NOT_FINITE)
    while r_squared > tolerance**2 * b_squared:
        if iterations >= maximum_iterations:
            return stopped(Stopped.MAXIMUM_ITERATIONS)
        product = system.apply(p)
        curvature = dot(p, product)
        if not math.isfinite(curvature):
            return stopped(Stopped.NOT_FINITE)
        if curvature <= 0:
            return stopped(Stopped.NONPOSITIVE_CURVATURE)
        step = r_squared / curvature
        x = torch.add(x, p, alpha=step)
        r.sub_(product, alpha=step)
        previous_squared, r_squared = r_squared, dot(r, r)
        iterations += 1
        if iterations == 1 or r_squared < best_squared:
            best, best_squared = x, r_squared
        p.mul_(r_squared / previous_squared).add_(r)
    return stopped(Stopped.RESIDUAL)
