"""What an exchange is recorded as, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message

from channel.ledger import Cost
from channel.uplinks import Reception
from strategies.air_messages import SCALAR_BITS, config_of, scalars_in, weighted_metrics
from strategies.cohort import Gathered
from strategies.packets import SentPacket
from strategies.received import read_seconds
from strategies.refusal import Failure

Record = dict[str, Any]
"""JSON-ready figures by name; see docs/record.md."""


def exchange_record(gathered: Gathered, heard: Sequence[Reception], names: Sequence[str] = ()) -> Record:
    """Who sent what, how it was heard, and who failed.

    Parameters
    ----------
    gathered : Gathered
        The devices' replies.
    heard : sequence of Reception
        What the server heard of each block; empty if nobody sent.
    names : sequence of str
        Of the blocks, where devices sent vectors: their figures go by name. An update has none.
    """
    cohort = gathered.cohort
    record: Record = {
        "participants": 0 if cohort is None else len(cohort.devices),
        "devices": [] if cohort is None else cohort.devices.tolist(),
        "failures": failures_of(gathered.failures),
        "heard": False,
    }
    if cohort is None or not heard:
        return record
    seconds = [s for s in gathered.seconds if s is not None]
    record |= {
        "heard": all(reception.update is not None for reception in heard),
        "weights": cohort.weights.tolist(),
        "energies": np.sum([reception.cost.energy for reception in heard], axis=0).tolist(),
        "train_s_mean": float(np.mean(seconds)) if seconds else None,
        "train_s_max": max(seconds, default=None),
        **_energy_of_computing(gathered.joules),
    }
    if names:
        return record | {"blocks": {name: one.record for name, one in zip(names, heard, strict=True)}}
    amplitudes = heard[0].record.get("amplitudes")
    return record | {
        "metrics": weighted_metrics(gathered.metrics, cohort.weights),
        "update_norms": cohort.norms.tolist(),
        "silent": [] if amplitudes is None else cohort.devices[np.asarray(amplitudes) == 0].tolist(),
        **heard[0].record,
    }


def costs_of(gathered: Gathered, heard: Sequence[Reception]) -> list[Cost]:
    """What the blocks of an exchange cost; the devices' computing, which comes before all of them, with the first."""
    slowest = max((s for s in gathered.seconds if s is not None), default=0.0)
    return [
        replace(reception.cost, compute_time=slowest if block == 0 else 0.0) for block, reception in enumerate(heard)
    ]


def packet_record(
    sent: Sequence[SentPacket], decoded: Sequence[SentPacket], cost: Cost, suspected_wraps: Mapping[int, int]
) -> Record:
    """What an exchange of packets was: who was decoded, and what it cost each sender.

    Parameters
    ----------
    sent : sequence of SentPacket
        At least one.
    decoded : sequence of SentPacket
        Those of which the server has the update.
    cost : Cost
        Of the exchange; energies in the order of `sent`.
    suspected_wraps : mapping of int to int
        By device, of the nested quantiser's second group.
    """
    seconds = [packet.seconds for packet in sent if packet.seconds is not None]
    weights = np.array([packet.weight for packet in sent])
    record: Record = {
        "heard": bool(decoded),
        "weights": (weights / weights.sum()).tolist(),
        "energies": cost.energy.tolist(),
        "silent": sorted({packet.device for packet in sent} - {packet.device for packet in decoded}),
        "train_s_mean": float(np.mean(seconds)) if seconds else None,
        "train_s_max": max(seconds, default=None),
        **_energy_of_computing([packet.joules for packet in sent]),
    }
    if decoded:
        heard = np.array([packet.weight for packet in decoded])
        record["metrics"] = weighted_metrics([packet.metrics for packet in decoded], heard / heard.sum())
    if suspected_wraps:
        record["suspected_wraps"] = sum(suspected_wraps.values())
    return record


def _energy_of_computing(joules: Sequence[float | None]) -> Record:
    """Mean and most of what senders estimate that their computing took; nothing where none of them does."""
    said = [value for value in joules if value is not None]
    return {"train_j_mean": float(np.mean(said)), "train_j_max": max(said)} if said else {}


def cost_of_packets(cost: Cost, sent: Sequence[SentPacket]) -> Cost:
    """What sending cost, and the slowest device's computing before it."""
    return replace(cost, compute_time=max((packet.seconds or 0.0 for packet in sent), default=0.0))


def cost_of_scalars(answers: Sequence[Message]) -> Cost:
    """What answers on the control channel cost: bits, and the time of the slowest."""
    return Cost(
        uses=0,
        energy=np.zeros(len(answers)),
        air_time=0.0,
        bits=SCALAR_BITS * sum(map(scalars_in, answers)),
        compute_time=max((read_seconds(answer) or 0.0 for answer in answers), default=0.0),
    )


def failures_of(failures: Sequence[Failure]) -> list[Record]:
    """Devices that were asked and did not send, why, and of which kind that is."""
    return [{"device": failure.device, "reason": failure.reason, "kind": failure.kind} for failure in failures]


def not_asked_of(reasons: Mapping[int, str]) -> list[Record]:
    """Devices that were not asked to send, and why."""
    return [{"device": device, "reason": reasons[device]} for device in sorted(reasons)]


def round_of(message: Message, exchange: int) -> int:
    """The round a message belongs to, as the strategy says; the exchange's number if it does not."""
    return int(str(config_of(message).get("server-round", exchange)))
