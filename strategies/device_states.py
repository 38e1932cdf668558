"""What devices keep between messages (Flower's ``Context.state``), as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from channel.memory import CannotBeKept


@runtime_checkable
class KeepsDeviceStates(Protocol):
    """A grid whose devices' states can be taken and given back: they live in processes of ours."""

    def device_states(self) -> dict[int, RecordDict]:
        """Of the devices that have been sent a message, by number."""
        ...

    def restore_device_states(self, states: Mapping[int, RecordDict]) -> None:
        """Let devices go on with these."""
        ...


def plain_record(record: RecordDict) -> dict[str, Any]:
    """A record of records as plain values; arrays stay the bytes they are.

    Raises
    ------
    CannotBeKept
        If it holds a record of a kind that this does not know.
    """
    return {name: _plain(name, inner) for name, inner in record.items()}


def _plain(name: str, record: object) -> dict[str, Any]:
    if isinstance(record, ArrayRecord):
        return {"arrays": [[key, a.dtype, list(a.shape), a.stype, a.data] for key, a in record.items()]}
    if isinstance(record, MetricRecord):
        return {"metrics": dict(record)}
    if isinstance(record, ConfigRecord):
        return {"config": dict(record)}
    raise CannotBeKept(f"record {name!r}: a {type(record).__name__}; accepted: ArrayRecord, MetricRecord, ConfigRecord")


def record_of(plain: Mapping[str, Any]) -> RecordDict:
    """The record that :func:`plain_record` was given."""
    return RecordDict({name: _record(inner) for name, inner in plain.items()})


def _record(plain: Mapping[str, Any]) -> ArrayRecord | MetricRecord | ConfigRecord:
    (kind, content), *_ = plain.items()
    if kind == "arrays":
        return ArrayRecord({key: Array(dtype, tuple(shape), stype, data) for key, dtype, shape, stype, data in content})
    return MetricRecord(cast(Any, content)) if kind == "metrics" else ConfigRecord(cast(Any, content))
