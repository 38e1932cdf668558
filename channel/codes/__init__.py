"""Analog codes: what a device sends for its update, and how the receiver turns the sum into a mean."""

from __future__ import annotations

from collections.abc import Callable

from channel.codes.block_linear_code import BlockLinearCode
from channel.codes.code import Code, Decoder
from channel.codes.energy_chips import EnergyChips
from channel.codes.majority_vote import MajorityVote, vote_error
from channel.codes.random_linear_code import RandomLinearCode
from channel.codes.random_mask import RandomMask
from channel.codes.sparse_amp import SparseAMP
from channel.codes.uncoded import Uncoded

CODES: dict[str, Callable[..., Code]] = {
    code.name: code
    for code in (Uncoded, RandomLinearCode, RandomMask, SparseAMP, MajorityVote, EnergyChips, BlockLinearCode)
}
"""Codes by the name they go by in an order, and in a scenario those it may name."""

__all__ = [
    "CODES",
    "BlockLinearCode",
    "Code",
    "Decoder",
    "EnergyChips",
    "MajorityVote",
    "RandomLinearCode",
    "RandomMask",
    "SparseAMP",
    "Uncoded",
    "vote_error",
]
