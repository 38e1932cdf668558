"""Weights that are believed, in the metrics of replies whose mean somebody else takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from flwr.app import Message, MetricRecord

from channel.records import records_in
from strategies.received import Metrics
from strategies.trust import Trust


def capped_metrics(own: Sequence[tuple[Metrics, float]], key: str, trust: Trust) -> list[Metrics]:
    """Metrics with the weights that are believed, by what each device says.

    Parameters
    ----------
    own : sequence of (metrics, float)
        Of each device, with the weight that it says.
    key : str
        Metric that holds the weight.
    trust : Trust
        How large a share is believed.
    """
    if trust.largest_weight_share == 1 or not own:
        return [metrics for metrics, _ in own]
    weights = np.array([weight for _, weight in own])
    believed = trust.capped(weights) * weights.sum()
    return [{**metrics, key: weight} for (metrics, _), weight in zip(own, believed.tolist(), strict=True)]


def cap_replies(good: Iterable[tuple[Message, Metrics]], key: str, trust: Trust) -> None:
    """Lower weights that are too large a share, in replies on the control channel that say one."""
    weighted = [(reply, metrics) for reply, metrics in good if key in metrics]
    capped = capped_metrics([(metrics, float(str(metrics[key]))) for _, metrics in weighted], key, trust)
    if trust.largest_weight_share == 1:
        return
    for (reply, _), metrics in zip(weighted, capped, strict=True):
        reply.content[next(iter(records_in(reply.content, MetricRecord)))] = MetricRecord(dict(metrics))
