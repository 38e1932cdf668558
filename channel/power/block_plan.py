"""Channel uses and energy of one round over the blocks of a model, each coded on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from channel.power.water_filling import Real, Whole, whole_water_fill

LEAST_SHARE = 0.01
"""Of its even share of the energy: what a block is taken to have at least."""


def block_uses(sizes: ArrayLike, norms: ArrayLike, uses: int) -> Whole:
    r"""Channel uses of each block: :math:`m_b \propto \sqrt{d_b}\,\|\bar x_b\|`, at least 1 and at most :math:`d_b`.

    They minimise the compression error :math:`\sum_b (d_b/m_b - 1)\|\bar x_b\|^2` of random linear codes over whole
    numbers that use the total up.

    Parameters
    ----------
    sizes : array of int, shape (B,)
        Entries d_b of each block.
    norms : array, shape (B,)
        Norms ||xbar_b|| of the mean update's blocks, in any unit: only their ratios matter.
    uses : int
        Channel uses m of the round.

    Returns
    -------
    ndarray of int, shape (B,)
        They add up to `uses`, or to the size of the model where that is less.

    Raises
    ------
    ValueError
        Sizes below 1, norms negative or not finite, arrays of other shapes, or fewer uses than blocks.
    """
    entries = _sizes(sizes)
    levels = _one_a_block("norms", norms, entries)
    if uses != int(uses) or uses < len(entries):
        raise ValueError(f"uses is {uses}; accepted: an integer of at least one use a block, {len(entries)}")
    levels = levels / levels.max() if levels.any() else levels
    return whole_water_fill(entries * levels**2, np.ones_like(entries), entries, int(uses))


def block_energies(sizes: ArrayLike, largest_energies: ArrayLike, energy: float) -> Real:
    r"""Energy of each block: :math:`E_b \propto \sqrt{d_b c_b}`, which minimises :math:`\sum_b d_b\sigma^2 c_b/E_b`.

    Parameters
    ----------
    sizes : array of int, shape (B,)
        Entries d_b of each block.
    largest_energies : array, shape (B,)
        c_b, the largest energy that a device needs for block b at unit receive scale; see
        :class:`~channel.power.round_plan.RoundPlan`.
    energy : float
        Energy E of the round, the same unit as the result.

    Returns
    -------
    ndarray, shape (B,)
        They add up to `energy`; proportional to the sizes where all c_b are zero. The bound holds for every device,
        whichever is the strongest in a block.

    Raises
    ------
    ValueError
        Sizes below 1, energies negative or not finite, or arrays of other shapes.
    """
    entries = _sizes(sizes)
    largest = _one_a_block("largest_energies", largest_energies, entries)
    if not (np.isfinite(energy) and energy >= 0):
        raise ValueError(f"energy is {energy}; accepted: a finite number >= 0")
    claims = np.sqrt(entries * (largest / largest.max())) if largest.any() else entries.astype(np.float64)
    energies: Real = energy * claims / claims.sum()
    return energies


def block_gain(sizes: ArrayLike, norms: ArrayLike) -> float:
    r""":math:`(\sum_b\sqrt{d_b}\,\|\bar x_b\|)^2/(d\,\|\bar x\|^2) \le 1`, d the sum of sizes.

    The factor by which :func:`block_uses` lowers the error :math:`(d/m)\|\bar x\|^2` of one code over everything, as
    long as no block is at a limit; 1 if energy is spread evenly over the entries.

    Raises
    ------
    ValueError
        As :func:`block_uses`; and norms that are all zero.
    """
    entries = _sizes(sizes)
    levels = _one_a_block("norms", norms, entries)
    if not levels.any():
        raise ValueError("norms are all zero; accepted: at least one positive norm")
    levels = levels / levels.max()
    return float((np.sqrt(entries) @ levels) ** 2 / (entries.sum() * (levels @ levels)))


def _sizes(sizes: ArrayLike) -> Whole:
    entries: Real = np.asarray(sizes, dtype=np.float64)
    if entries.ndim != 1 or entries.size == 0 or not (entries >= 1).all() or (entries % 1 != 0).any():
        raise ValueError(f"sizes is {entries}; accepted: one integer >= 1 a block")
    return entries.astype(np.int64)


def _one_a_block(name: str, values: ArrayLike, entries: Whole) -> Real:
    array: Real = np.asarray(values, dtype=np.float64)
    if array.shape != entries.shape:
        raise ValueError(f"{name} has shape {array.shape}; accepted: {entries.shape}, one a block as sizes")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(f"{name} is {array}; accepted: finite numbers >= 0")
    return array


class BlockPlanner:
    r"""Shares the channel uses of each exchange out over the blocks of a model, by what was heard of the blocks so far.

    Before an exchange the server asks :meth:`grant`, after it it tells :meth:`observe` the energy of each block of the
    mean. Norms for :func:`block_uses` come from a moving average of those energies, which noise may take below zero; a
    block is never taken to have less than a hundredth of its even share, so that it is heard again. Before anything
    is heard energy is taken to be even.

    Parameters
    ----------
    sizes : sequence of int
        Entries d_b of each block.
    memory : float, default 0.9
        What the past counts for in the moving average, in [0, 1).

    Raises
    ------
    ValueError
        Sizes below 1 or none, or a memory outside [0, 1).
    """

    def __init__(self, sizes: Sequence[int], memory: float = 0.9) -> None:
        if not 0.0 <= memory < 1.0:
            raise ValueError(f"memory is {memory}; accepted: 0 <= memory < 1")
        self._entries = _sizes(sizes)
        self.memory = memory
        self._sums = np.zeros(len(self._entries))
        self._granted: tuple[int, list[int]] = (0, [])

    @property
    def sizes(self) -> list[int]:
        """Entries of each block."""
        return [int(entries) for entries in self._entries]

    @property
    def size(self) -> int:
        """Entries d of an update."""
        return int(self._entries.sum())

    def grant(self, exchange: int, uses: int) -> list[int]:
        """Channel uses of each block in an exchange of `uses`; asked again it says the same.

        Raises
        ------
        ValueError
            Fewer uses than blocks.
        """
        if self._granted[0] != exchange:
            self._granted = exchange, block_uses(self._entries, self._norms(), uses).tolist()
        return self._granted[1]

    def observe(self, exchange: int, energies: ArrayLike) -> None:
        """What was heard in an exchange: estimates of ||xbar_b||^2, shape (B,), negative where noise makes them so.

        Raises
        ------
        ValueError
            An exchange that was not granted last, or energies of another shape or not finite.
        """
        if exchange != self._granted[0]:
            raise ValueError(f"exchange is {exchange}; accepted: the one granted last, {self._granted[0]}")
        heard: Real = np.asarray(energies, dtype=np.float64)
        if heard.shape != self._entries.shape or not np.isfinite(heard).all():
            raise ValueError(f"energies is {heard}; accepted: {len(self._entries)} finite numbers, one a block")
        self._sums = self.memory * self._sums + (1.0 - self.memory) * heard

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs, as JSON values; sizes and memory are the caller's to keep."""
        return {"sums": self._sums.tolist(), "granted": [self._granted[0], self._granted[1]]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`.

        Raises
        ------
        ValueError
            A state of other blocks.
        """
        if len(state["sums"]) != len(self._entries):
            raise ValueError(f"state holds {len(state['sums'])} blocks; accepted: {len(self._entries)}")
        self._sums = np.asarray(state["sums"], dtype=np.float64)
        exchange, shared = state["granted"]
        self._granted = int(exchange), [int(count) for count in shared]

    def _norms(self) -> Real:
        """Of the blocks, in a unit of their own."""
        even = self._entries / self._entries.sum()
        total = float(np.maximum(self._sums, 0.0).sum())
        energies = np.maximum(self._sums / total, LEAST_SHARE * even) if total > 0.0 else even
        norms: Real = np.sqrt(energies)
        return norms
