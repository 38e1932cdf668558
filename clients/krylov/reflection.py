"""The 2 x 2 reflection from which Krylov solvers build their factorisations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Reflection(NamedTuple):
    r"""The symmetric orthogonal matrix

    .. math:: \begin{pmatrix} c & s \\ s & -c \end{pmatrix}, \qquad c^2 + s^2 = 1.
    """

    c: float
    s: float

    def of(self, a: float, b: float) -> tuple[float, float]:
        """The numbers (a, b) reflected: (c a + s b, s a - c b)."""
        return self.c * a + self.s * b, self.s * a - self.c * b

    def of_vectors(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The same on a pair of vectors, in new memory."""
        return torch.add(self.c * a, b, alpha=self.s), torch.add(self.s * a, b, alpha=-self.c)


UNCHANGED_BUT_FIRST_SIGN = Reflection(-1.0, 0.0)
"""Maps (0, b) to (0, b): stands in for a reflection that does not exist yet."""


def annihilating(a: float, b: float) -> tuple[Reflection, float]:
    r"""The reflection that maps (a, b) to (r, 0), and r.

    :math:`r = \sqrt{a^2 + b^2} \ge 0`, :math:`c = a/r`, :math:`s = b/r`; (0, 0) is left as it is with c = 1. This is
    SymOrtho of Choi, Paige and Saunders 2011 (Table A.1): hypot does the scaling that keeps r from overflow.
    """
    r = math.hypot(a, b)
    return (Reflection(a / r, b / r), r) if r > 0 else (Reflection(1.0, 0.0), 0.0)
