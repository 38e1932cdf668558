"""Krylov solvers on device tensors: an operator that multiplies, a right-hand side, and how the solve stopped."""

from clients.krylov.conjugate_gradients import conjugate_gradients
from clients.krylov.lsmr import lsmr
from clients.krylov.minres_qlp import minres_qlp
from clients.krylov.solution import Solution, Stopped

__all__ = ["Solution", "Stopped", "conjugate_gradients", "lsmr", "minres_qlp"]
