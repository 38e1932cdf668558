"""The scale that turns a coded update into symbols of unit power."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channel.codes.code import Code


def symbol_scale(code: Code, size: int) -> float:
    r""":math:`\sqrt n` with :math:`E\|Ax\|^2 = (m/n)\|x\|^2`: ``A x * scale / ||x||`` has unit mean power a use."""
    return math.sqrt(code.uses(size) / code.expected_energy_ratio(size))
