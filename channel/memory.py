"""What a part remembers of a run, as plain values: so a run can be taken up again where it stood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard

State = dict[str, Any]
"""None, booleans, numbers, texts, bytes, NumPy arrays, and lists and dicts (with texts for keys) of those."""


class Memory(Protocol):
    """A part whose answers depend on what it was asked before in the run.

    A part newly made that is given another's :meth:`state` by :meth:`restore` answers from then on as that one would
    have, to the last bit.
    """

    def state(self) -> State:
        """All that :meth:`restore` needs."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        ...


class CannotBeKept(TypeError):
    """A value that no state can hold; the message says where it is and what it is."""


def state_of(part: object) -> State | None:
    """The state of a part that has a memory; None of others."""
    return part.state() if has_memory(part) else None


def has_memory(part: object) -> TypeGuard[Memory]:
    """Whether a part is a :class:`Memory`: by its methods, and quicker than ``isinstance`` finds out."""
    return hasattr(part, "restore") and hasattr(part, "state")


def restore_into(part: object, state: Mapping[str, Any] | None) -> None:
    """Give a part the state that :func:`state_of` its like was.

    Raises
    ------
    ValueError
        If one of the two has a memory and the other not.
    """
    if has_memory(part) != (state is not None):
        has, kept = ("a", "none") if state is None else ("no", "one")
        raise ValueError(f"{type(part).__name__}: has {has} memory, {kept} was kept; accepted: the same part as then")
    if has_memory(part) and state is not None:
        part.restore(state)
