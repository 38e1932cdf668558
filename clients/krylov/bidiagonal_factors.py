"""The double QR factorisation of a growing bidiagonal matrix, in scalars."""

from __future__ import annotations

import math
from typing import NamedTuple

from clients.krylov.reflection import annihilating


class Step(NamedTuple):
    """Factors of the vector updates: h_bar ← h - h_bar · h_bar, x ← x + x · h_bar, h ← v - h · h."""

    h_bar: float
    x: float
    h: float


class BidiagonalFactors:
    r"""The rotations of LSMR, damping included.

    Golub-Kahan gives :math:`H V_k = U_{k+1} B_k` with :math:`\alpha_j` on the diagonal of B and :math:`\beta_{j+1}`
    below it. A first QR factorisation takes B, with :math:`\varphi I` under it, to an upper bidiagonal R; a second
    takes :math:`R^T` to :math:`\bar R`, and :math:`\bar\zeta` is the norm of the normal equations' residual.

    Parameters
    ----------
    alpha, beta : float
        :math:`\alpha_1 = \|H b\| / \|b\|` and :math:`\beta_1 = \|b\|`.
    damping : float
        :math:`\varphi`.

    Notes
    -----
    D. C.-L. Fong and M. A. Saunders, LSMR, SIAM J. Sci. Comput. 33 (5), 2011, sections 2.3 to 2.8 and 5; symbols as
    there, with dots and tildes spelled out. The rotations' signs are SciPy's.
    """

    def __init__(self, alpha: float, beta: float, damping: float) -> None:
        self.damping = damping
        self.columns = 0
        self.alpha = alpha
        self.alpha_bar = alpha
        self.zeta = 0.0
        self.zeta_bar = alpha * beta
        self.rho = self.rho_bar = 1.0
        self.c_bar, self.s_bar = 1.0, 0.0
        self.beta_ddot = beta
        self.beta_dot = 0.0
        self.rho_dot = 1.0
        self.tau_tilde = self.theta_tilde = 0.0
        self.damped_squared = 0.0
        self.frobenius_squared = 0.0
        self.residual_norm = beta

    @property
    def normal_residual_norm(self) -> float:
        """Norm of the stack's transpose times its residual."""
        return abs(self.zeta_bar)

    @property
    def operator_norm(self) -> float:
        """Estimate of the stack's norm: the Frobenius norm of its bidiagonal matrix."""
        return math.sqrt(self.frobenius_squared + self.columns * self.damping**2)

    def append(self, alpha: float, beta: float) -> Step:
        """Take in column k of B, alpha_k and beta_{k+1} = ``beta``, with alpha_{k+1} = ``alpha`` of the next."""
        self.columns += 1
        self.frobenius_squared += self.alpha**2 + beta**2
        self.alpha = alpha
        rho_before, rho_bar_before, zeta_before = self.rho, self.rho_bar, self.zeta
        (c_hat, s_hat), alpha_hat = annihilating(self.alpha_bar, self.damping)
        (c, s), self.rho = annihilating(alpha_hat, beta)
        theta = s * alpha
        self.alpha_bar = c * alpha
        theta_bar = self.s_bar * self.rho
        (self.c_bar, self.s_bar), self.rho_bar = annihilating(self.c_bar * self.rho, theta)
        self.zeta, self.zeta_bar = self.c_bar * self.zeta_bar, -self.s_bar * self.zeta_bar
        self._update_residual((c_hat, s_hat), (c, s), theta_bar, zeta_before)
        return Step(
            h_bar=theta_bar * self.rho / (rho_before * rho_bar_before),
            x=self.zeta / (self.rho * self.rho_bar),
            h=theta / self.rho,
        )

    def _update_residual(
        self, damped: tuple[float, float], first: tuple[float, float], theta_bar: float, zeta_before: float
    ) -> None:
        self.damped_squared += (damped[1] * self.beta_ddot) ** 2
        beta_acute = damped[0] * self.beta_ddot
        beta_hat, self.beta_ddot = first[0] * beta_acute, -first[1] * beta_acute
        (c_tilde, s_tilde), rho_tilde = annihilating(self.rho_dot, theta_bar)
        theta_tilde_before, self.theta_tilde = self.theta_tilde, s_tilde * self.rho_bar
        self.rho_dot = c_tilde * self.rho_bar
        self.beta_dot = -s_tilde * self.beta_dot + c_tilde * beta_hat
        self.tau_tilde = (zeta_before - theta_tilde_before * self.tau_tilde) / rho_tilde
        tau_dot = (self.zeta - self.theta_tilde * self.tau_tilde) / self.rho_dot
        self.residual_norm = math.hypot(math.sqrt(self.damped_squared), self.beta_dot - tau_dot, self.beta_ddot)
