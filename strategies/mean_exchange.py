"""Exchanges of which the server wants means: of vectors, and of the scalars that come with them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from channel.order import BLOCKS_KEY, RECEPTION_KEY, SCALARS_KEY
from channel.records import records_in
from strategies.air_messages import reason_of, weighted_metrics
from strategies.received import Metrics, check_finite, read_array, read_metrics, read_weight
from strategies.refusal import BadPayload
from strategies.replies import matched

Vector = NDArray[np.floating]

WEIGHT_KEY = "weight"
"""Metric by which devices' vectors are weighted."""


@dataclass(frozen=True)
class Means:
    """What an exchange came to.

    Attributes
    ----------
    nodes : frozenset of int
        Whose mean it is.
    vectors : mapping of str to ndarray
        The mean vectors by name, flat.
    scalars : mapping
        The means of the metrics by name, numbers or arrays.
    noise : mapping of str to float
        Standard deviation of the error of one entry of each mean vector, as the receiver knows it; 0 on links
        without noise.
    snr : float
        Of one channel use, see :class:`channel.uplinks.Reception`; infinite on links without noise.
    reasons : tuple of str
        Why others, if there are any, were left out; over the air only if nobody was heard (the record says it else).
    """

    nodes: frozenset[int]
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    snr: float = math.inf
    reasons: tuple[str, ...] = ()


@dataclass
class Traffic:
    """What has gone over the links of one device so far: up from it, down to it."""

    exchanges: int = 0
    vectors_up: float = 0
    vectors_down: float = 0
    scalars_up: int = 0
    scalars_down: int = 0


class MeanExchange:
    """Asks nodes for vectors and takes their means, over any Grid.

    An :class:`~strategies.air_grid.AirGrid` hands over the mean as it was received; of any other grid's replies it is
    taken here. Replies that failed, or do not hold what was asked for, are left out.

    Parameters
    ----------
    grid : Grid
        Reaches the devices.
    size : int
        d, length of a vector.
    config : ConfigRecord
        Goes with every message.
    timeout : float
        Seconds to wait for replies.

    Attributes
    ----------
    traffic : Traffic
        What has been exchanged so far, in vectors of d entries and in scalars.
    """

    def __init__(self, grid: Grid, size: int, config: ConfigRecord, timeout: float) -> None:
        self.grid = grid
        self.size = size
        self.config = config
        self.timeout = timeout
        self.traffic = Traffic()

    def ask(
        self,
        action: str,
        nodes: Collection[int],
        *,
        wanted: Mapping[str, int],
        scalars: Mapping[str, int] | None = None,
        vectors: Mapping[str, Vector] | None = None,
        config: Mapping[str, Any] | None = None,
        size: int | None = None,
    ) -> Means:
        """One exchange.

        Parameters
        ----------
        action : str
            What the devices are to do. The message has the type ``train.<action>``, which goes over the air, or, if
            no vectors are wanted, ``query.<action>``: scalars take the control channel.
        nodes : collection of int
            Whom to ask.
        wanted : mapping of str to int
            The vectors asked for by name, and how many of d entries each holds.
        scalars : mapping of str to int, optional
            The metrics that must come with them by name, and how many numbers each holds. Infinity is a number.
        vectors : mapping of str to ndarray, optional
            Sent with the message.
        config : mapping, optional
            Scalars sent with the message.
        size : int, optional
            Length of a vector asked for, if it is not d.

        Returns
        -------
        Means
            Of those who answered as asked; of nobody if ``nodes`` is empty there.
        """
        vectors, config, scalars = vectors or {}, config or {}, scalars or {}
        sizes = {name: count * (size or self.size) for name, count in wanted.items()}
        content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(np.ascontiguousarray(v)) for name, v in vectors.items()}),
                "config": ConfigRecord({**self.config, **config}),
            }
        )
        if sizes:
            content[BLOCKS_KEY] = ConfigRecord(dict(sizes))
        if scalars:
            content[SCALARS_KEY] = ConfigRecord(dict(scalars))
        kind = f"{MessageType.TRAIN if sizes else MessageType.QUERY}.{action}"
        messages = [Message(content, node, kind) for node in nodes]
        replies = list(self.grid.send_and_receive(messages, timeout=self.timeout))
        self._count(sizes, sum(scalars.values()), vectors, config)
        merged = replies[0] if len(replies) == 1 and replies[0].has_content() else None
        if merged is not None and RECEPTION_KEY in records_in(merged.content, ConfigRecord):
            return _received(merged)
        node_of = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
        answers = {node_of[asked]: reply for asked, reply in matched(messages, replies).of.items()}
        return _mean(answers, len(nodes), sizes, scalars)

    def _count(
        self, sizes: Mapping[str, int], scalars: int, vectors: Mapping[str, Vector], config: Mapping[str, Any]
    ) -> None:
        self.traffic.exchanges += 1
        self.traffic.vectors_up += self._in_vectors(sum(sizes.values()))
        self.traffic.vectors_down += self._in_vectors(sum(v.size for v in vectors.values()))
        self.traffic.scalars_up += scalars
        self.traffic.scalars_down += sum(len(v) if isinstance(v, list) else 1 for v in config.values())

    def _in_vectors(self, entries: int) -> float:
        """Entries as a number of whole vectors; a fraction for shorter ones."""
        return entries // self.size if entries % self.size == 0 else entries / self.size


def _received(reply: Message) -> Means:
    """The mean that came over the air."""
    content = reply.content
    reception: Mapping[str, Any] = records_in(content, ConfigRecord)[RECEPTION_KEY]
    arrays = next(iter(records_in(content, ArrayRecord).values()))
    return Means(
        frozenset(reception["nodes"]),
        {name: array.numpy() for name, array in arrays.items()},
        dict(next(iter(records_in(content, MetricRecord).values()), {})),
        {name: math.sqrt(reception[f"{name}.noise-variance"]) for name in arrays},
        float(reception["snr"]),
    )


@dataclass(frozen=True)
class _Answer:
    """A reply that holds what was asked for."""

    vectors: Mapping[str, Vector]
    metrics: Metrics
    weight: float


def _mean(replies: Mapping[int, Message], asked: int, sizes: Mapping[str, int], scalars: Mapping[str, int]) -> Means:
    """The weighted mean of the replies that hold what was asked for."""
    good: dict[int, _Answer] = {}
    reasons = ["no reply in time"] if len(replies) < asked else []
    for node, reply in sorted(replies.items()):
        try:
            good[node] = _read(reply, sizes, scalars)
        except BadPayload as bad:
            reasons.append(str(bad))
    reasons = list(dict.fromkeys(reasons))
    if not good:
        return Means(frozenset(), reasons=tuple(reasons))
    answers = list(good.values())
    weights = np.array([answer.weight for answer in answers])
    weights /= weights.sum()
    return Means(
        frozenset(good),
        {name: _weighted(weights, [answer.vectors[name] for answer in answers]) for name in sizes},
        weighted_metrics([answer.metrics for answer in answers], weights),
        dict.fromkeys(sizes, 0.0),
        reasons=tuple(reasons),
    )


def _weighted(weights: Vector, values: Sequence[Vector]) -> Vector:
    return np.asarray(np.tensordot(weights, np.stack(values).astype(np.float64), axes=1))


def _read(reply: Message, sizes: Mapping[str, int], scalars: Mapping[str, int]) -> _Answer:
    """What a device answers, checked before it may touch the mean; BadPayload says what is wrong with it."""
    if reply.has_error():
        raise BadPayload(reason_of(reply))
    metrics = read_metrics(reply, scalars, finite=bool(scalars))
    weight = read_weight(metrics, WEIGHT_KEY)
    arrays = next(iter(records_in(reply.content, ArrayRecord).values()), ArrayRecord())
    if set(arrays) != set(sizes):
        raise BadPayload(f"the reply holds the vectors {sorted(arrays)}, expected {sorted(sizes)}")
    return _Answer({name: _read_vector(name, arrays[name], size) for name, size in sizes.items()}, metrics, weight)


def _read_vector(name: str, array: Array, size: int) -> Vector:
    vector = read_array(array, f"entries of vector {name!r}", (size,), (np.float32, np.float64), flat=True)
    check_finite(vector, f"entries of vector {name!r}")
    return vector
