"""The QLP factorisation of a growing tridiagonal matrix, in scalars."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clients.krylov.reflection import UNCHANGED_BUT_FIRST_SIGN, Reflection, annihilating


@dataclass
class QLPFactors:
    r"""Left reflections Q and right reflections P that make a Lanczos matrix lower triangular, column by column.

    With :math:`\underline{T}_k` the (k+1) x k tridiagonal matrix of Lanczos coefficients (:math:`\alpha_j` on the
    diagonal, :math:`\beta_{j+1}` beside it),

    .. math:: Q_k \underline{T}_k P_k = \begin{pmatrix} L_k \\ 0 \end{pmatrix}, \qquad
              Q_k \|b\| e_1 = \begin{pmatrix} t_k \\ \phi_k \end{pmatrix}, \qquad L_k \mu = t_k,

    L has three diagonals: :math:`\gamma`, below it :math:`\vartheta`, and :math:`\eta`. Only its last three rows still
    change, so each number is kept for the last few columns: ``gamma_1`` is that of the column before. The residual
    norm of the solution is :math:`\phi_k`, its own norm :math:`\|\mu\|` as the directions are orthonormal.

    Parameters
    ----------
    phi : float
        :math:`\|b\|`.
    norm_limit : float
        Largest :math:`\|\mu\|` allowed.
    zero : float
        A :math:`\gamma` of at most ``zero`` times the norm of T counts as 0 and its :math:`\mu` is set to 0.

    Notes
    -----
    S.-C. T. Choi, C. C. Paige and M. A. Saunders, MINRES-QLP: a Krylov subspace method for indefinite or singular
    symmetric systems, SIAM J. Sci. Comput. 33 (4), 2011, sections 3 and 5.
    """

    phi: float
    norm_limit: float
    zero: float

    columns: int = 0
    left: Reflection = UNCHANGED_BUT_FIRST_SIGN  # of rows (k, k+1)
    right: Reflection = UNCHANGED_BUT_FIRST_SIGN  # of columns (k-1, k)
    right_2: Reflection = UNCHANGED_BUT_FIRST_SIGN  # of columns (k-2, k)
    right_next: Reflection = UNCHANGED_BUT_FIRST_SIGN  # of columns (k-1, k+1)
    delta_next: float = 0.0
    epsilon_next: float = 0.0
    gamma: float = 0.0
    gamma_1: float = 0.0
    gamma_2: float = 0.0
    theta: float = 0.0
    theta_1: float = 0.0
    theta_2: float = 0.0
    eta: float = 0.0
    eta_1: float = 0.0
    eta_2: float = 0.0
    tau: float = 0.0
    tau_1: float = 0.0
    tau_2: float = 0.0
    mu: float = 0.0
    mu_1: float = 0.0
    mu_2: float = 0.0
    mu_3: float = 0.0
    mu_4: float = 0.0

    residual_norm: float = 0.0
    """||b - A x|| of the solution as it stands."""
    least_squares_root: float = 0.0
    """||A r|| / ||r|| of the iterate before this column."""
    singular: bool = False
    over_norm_limit: bool = False
    settled_norm: float = 0.0
    solution_norm: float = 0.0
    operator_norm: float = 0.0
    condition: float = 1.0
    smallest: float = math.inf
    smallest_1: float = math.inf

    def __post_init__(self) -> None:
        self.residual_norm = self.phi

    def append(self, alpha: float, beta: float, beta_next: float) -> None:
        """Take in the next column (beta, alpha, beta_next) of T and solve for its mu."""
        self.columns += 1
        column_norm = math.hypot(beta, alpha, beta_next)
        self._reflect_left(alpha, beta_next)
        self._solve(max(self.operator_norm, column_norm))
        self._look_ahead(column_norm)

    def _reflect_left(self, alpha: float, beta_next: float) -> None:
        delta, gamma_bar = self.left.of(self.delta_next, alpha)
        self.epsilon_next, self.delta_next = self.left.of(0.0, beta_next)
        self.least_squares_root = math.hypot(gamma_bar, self.delta_next)
        self.left, gamma = annihilating(gamma_bar, beta_next)
        self.tau_2, self.tau_1 = self.tau_1, self.tau
        self.tau, self.phi = self.left.of(self.phi, 0.0)
        self._reflect_right(delta, gamma)

    def _reflect_right(self, delta: float, gamma: float) -> None:
        self.gamma_2, self.gamma_1 = self.gamma_1, self.gamma
        self.eta_2, self.eta_1 = self.eta_1, self.eta
        self.theta_2 = self.theta_1
        self.right_2 = self.right_next
        self.theta_1, delta = self.right_2.of(self.theta, delta)
        self.eta, gamma = self.right_2.of(0.0, gamma)
        if self.columns > 1:
            self.right, self.gamma_1 = annihilating(self.gamma_1, delta)
        self.theta, self.gamma = self.right.of(0.0, gamma)

    def _solve(self, scale: float) -> None:
        self.mu_4, self.mu_3 = self.mu_3, self.mu_2
        # gamma_1 and gamma_2 cannot be 0 here: they only grew since they were a gamma, and a gamma of 0 ends the solve
        if self.columns > 2:
            self.mu_2 = (self.tau_2 - self.eta_2 * self.mu_4 - self.theta_2 * self.mu_3) / self.gamma_2
        if self.columns > 1:
            self.mu_1 = (self.tau_1 - self.eta_1 * self.mu_3 - self.theta_1 * self.mu_2) / self.gamma_1
        self._solve_last(scale)
        self.settled_norm = math.hypot(self.settled_norm, self.mu_2)
        self.solution_norm = math.hypot(self.settled_norm, self.mu_1, self.mu)

    def _solve_last(self, scale: float) -> None:
        rest = self.tau - self.eta * self.mu_2 - self.theta * self.mu_1
        before = math.hypot(self.settled_norm, self.mu_2, self.mu_1)
        # |gamma| is at least the smallest |eigenvalue| in play: this small, it is a zero and mu would be noise
        self.singular = abs(self.gamma) <= self.zero * scale or before >= self.norm_limit
        self.mu = 0.0 if self.singular else rest / self.gamma
        self.over_norm_limit = math.hypot(before, self.mu) > self.norm_limit
        if self.over_norm_limit:
            self.mu = 0.0
        left_out = rest if self.singular or self.over_norm_limit else 0.0
        self.residual_norm = math.hypot(self.phi, left_out)

    def _look_ahead(self, column_norm: float) -> None:
        """Start the next column's first right reflection, which settles gamma_1, and update the norms."""
        if self.columns > 1:
            self.right_next, self.gamma_1 = annihilating(self.gamma_1, self.epsilon_next)
        self.operator_norm = max(self.operator_norm, column_norm, self.gamma_1, abs(self.gamma))
        two_back = self.smallest_1 if self.columns > 2 else self.smallest
        candidates = (two_back, self.gamma_1, abs(self.gamma)) if self.columns > 1 else (abs(self.gamma),)
        self.smallest_1, self.smallest = self.smallest, min(candidates)
        self.condition = self.operator_norm / self.smallest if self.smallest > 0 else math.inf
