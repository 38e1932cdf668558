"""Whether each process has a GPU of its own, on which its vectors can lie."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist


class Own(NamedTuple):
    """What a process has: the name of a device that is the same in all that use it, or why it has none."""

    name: str | None
    why_not: str = ""


def own_device(number: int, device: torch.device | None) -> Own:
    """What this process has; every process is taken to have a CPU of its own."""
    if device is None:
        return Own(None, f"peer {number} uses no GPU")
    if device.type == "cpu":
        return Own(f"cpu {number}")
    if not dist.is_nccl_available():
        return Own(None, f"the PyTorch of peer {number} has no NCCL")
    torch.zeros(1, device=device)  # a GPU that cannot be used fails here, and not while the others connect to it
    return Own(str(torch.cuda.get_device_properties(device).uuid))


def why_shared(all_own: list[Own]) -> str | None:
    """Why not all have one of their own; None if they do.

    Parameters
    ----------
    all_own : list of Own
        By peer.
    """
    first: dict[str, int] = {}
    for number, own in enumerate(all_own):
        if own.name is None:
            return own.why_not
        if own.name in first:
            return f"peers {first[own.name]} and {number} share a GPU"
        first[own.name] = number
    return None


def why_not_all(own: Own) -> str | None:
    """:func:`why_shared` of all processes of the group, which all have to ask."""
    told: list[Own | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, own)
    return why_shared([each for each in told if each is not None])
