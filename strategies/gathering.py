"""What devices send over the air, read from their replies: of each block those whose reply is good as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray

from channel.codes import Code
from channel.codes.symbol_scale import symbol_scale
from channel.order import TransmitOrder
from strategies.air_messages import failure_of
from strategies.cohort import Gathered, MessageCohort, read_symbols
from strategies.received import Metrics, check_seed, read_joules, read_metrics, read_seconds, read_weight
from strategies.refusal import BadPayload, Failure
from strategies.trust import Trust


@dataclass(frozen=True)
class Wanted:
    """What is asked of devices in one exchange.

    Attributes
    ----------
    order : TransmitOrder
        How they code it.
    sizes : mapping of str or None to int
        Lengths of the blocks by name; an update has no name.
    scalars : mapping of str to int
        Metrics that must come with them, and how many numbers each holds.
    weighted_by_key : str
        Metric that holds a device's weight.
    longest : float
        Largest norm of a block that is believed.
    """

    order: TransmitOrder
    sizes: Mapping[str | None, int]
    scalars: Mapping[str, int]
    weighted_by_key: str
    longest: float


@dataclass(frozen=True)
class _Sender:
    """A device whose reply is good: its symbols and norm of each block, and what it says of itself."""

    device: int
    blocks: list[tuple[NDArray[np.floating], float]]
    weight: float
    metrics: Metrics
    seconds: float | None
    joules: float | None


def gathered_blocks(
    answers: Sequence[tuple[int, Message | None]], wanted: Wanted, trust: Trust, total: int
) -> list[Gathered]:
    """Who sends, and who does not and why, of each block; whoever fails in one block is out of all.

    Parameters
    ----------
    answers : sequence of (int, Message or None)
        The devices asked, each with its reply.
    wanted : Wanted
        What was asked of them.
    trust : Trust
        How far they are believed.
    total : int
        Number of devices in the system.
    """
    failures: list[Failure] = []
    senders: list[_Sender] = []
    for device, reply in answers:
        if reply is None or reply.has_error():
            failures.append(failure_of(device, reply))
            continue
        try:
            senders.append(_read(device, reply, wanted))
        except BadPayload as bad:
            failures.append(Failure(device, str(bad), bad.kind))
    too_long = {
        device: reason
        for block in range(len(wanted.sizes))
        for device, reason in trust.too_long({s.device: s.blocks[block][1] for s in senders}).items()
    }
    failures += [Failure(device, reason, "norm") for device, reason in too_long.items()]
    senders = [sender for sender in senders if sender.device not in too_long]
    code = wanted.order.build_code()
    metrics, seconds = [s.metrics for s in senders], [s.seconds for s in senders]
    joules = [sender.joules for sender in senders]
    return [
        Gathered(_cohort(senders, block, size, code, trust, total), metrics, failures, seconds, joules)
        for block, size in enumerate(wanted.sizes.values())
    ]


def _read(device: int, reply: Message, wanted: Wanted) -> _Sender:
    check_seed(reply, wanted.order.seed)
    code = wanted.order.build_code()
    blocks = [read_symbols(reply, code, size, name, wanted.longest) for name, size in wanted.sizes.items()]
    metrics = read_metrics(reply, wanted.scalars)
    weight = read_weight(metrics, wanted.weighted_by_key)
    return _Sender(device, blocks, weight, metrics, read_seconds(reply), read_joules(reply))


def _cohort(
    senders: Sequence[_Sender], block: int, size: int, code: Code, trust: Trust, total: int
) -> MessageCohort | None:
    if not senders:
        return None
    return MessageCohort(
        devices=np.array([s.device for s in senders]),
        weights=trust.capped(np.array([s.weight for s in senders])),
        norms=np.array([s.blocks[block][1] for s in senders]),
        size=size,
        total=total,
        blocks=torch.from_numpy(np.stack([s.blocks[block][0] for s in senders])),
        scale=symbol_scale(code, size),
    )
