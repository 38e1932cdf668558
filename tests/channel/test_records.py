"""Records of one kind, without views that keep alive what they show."""

from __future__ import annotations

import gc
import weakref

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from channel.records import records_in


def test_records_of_a_kind_are_those_of_flowers_own_view() -> None:
    content = RecordDict({"a": ArrayRecord(), "b": ConfigRecord({"x": 1}), "c": ArrayRecord(), "d": MetricRecord()})
    assert records_in(content, ArrayRecord) == dict(content.array_records)
    assert records_in(content, ConfigRecord) == {"b": ConfigRecord({"x": 1})}
    assert list(records_in(content, ArrayRecord)) == ["a", "c"]


def test_what_was_looked_at_is_freed_with_its_last_reference() -> None:
    content = RecordDict({"model": ArrayRecord()})
    model = weakref.ref(content["model"])
    gc.disable()
    try:
        assert records_in(content, ArrayRecord)["model"] is model()
        del content
        assert model() is None
    finally:
        gc.enable()
