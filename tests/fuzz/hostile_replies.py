"""What a device may do to its reply: other bytes, other records, other metrics, an error, several replies, or none."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import strategies as st

from channel.order import PACKET_KEY, SYMBOLS_KEY, TRANSMISSION_KEY
from channel.records import records_in
from tests.fuzz.hostile_bytes import MUTATIONS, mutated

SIZE, HOSTILE = 24, 1
"""Entries of the model, and the device that does as it likes: node 10 + HOSTILE."""

NUMBERS = st.one_of(
    st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.sampled_from([-0.0, 1e300, 1e-320, 2**53, 2**63])
)  # fmt: skip
CONFIG_VALUES = st.one_of(
    NUMBERS, st.booleans(), st.text(max_size=20), st.binary(max_size=20), st.lists(st.floats(), max_size=4),
    st.lists(st.text(max_size=3), max_size=3),
)  # fmt: skip
METRIC_VALUES = st.one_of(NUMBERS, st.lists(st.floats(), max_size=4), st.lists(st.integers(), max_size=4))
KEYS = st.sampled_from(
    ["device", "norm", "newton.norm", "size", "newton.size", "seconds", "joules", "seed", "other", ""]
)
METRICS = st.sampled_from(["num-examples", "train_loss", "weight", "objective", "objectives", "other", ""])
NAMES = st.sampled_from([SYMBOLS_KEY, PACKET_KEY, TRANSMISSION_KEY, "metrics", "arrays", "vectors", "other"])
DTYPES = st.sampled_from(["<f4", "<f8", ">f8", "<f2", "<i8", "|u1", "<c16", "|b1", "<U3", "|O", "<M8[s]"])
SHAPES = st.one_of(
    st.just((SIZE,)), st.just((SIZE // 2,)), st.lists(st.integers(-2, 40), max_size=3).map(tuple),
    st.just((2**62,)), st.just((2**31, 2**31)),
)  # fmt: skip


def header(dtype: str, fortran: bool, shape: tuple[int, ...], data: bytes) -> bytes:
    text = repr({"descr": dtype, "fortran_order": fortran, "shape": shape}).encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


ARRAY_BYTES = st.one_of(
    st.builds(header, DTYPES, st.booleans(), SHAPES, st.binary(max_size=8 * SIZE)),
    st.binary(max_size=300),
    st.lists(st.floats(width=64), min_size=SIZE, max_size=SIZE).map(
        lambda v: header("<f8", False, (SIZE,), np.array(v).tobytes())
    ),
)


def arrays_of(content: RecordDict) -> list[tuple[str, str]]:
    """Name of the record and of the array."""
    return [(name, array) for name, record in records_in(content, ArrayRecord).items() for array in record]


def with_last(data: bytes, number: float) -> bytes:
    """An array's bytes whose last entry is another, should they be numbers of 8 bytes, or of 4."""
    packing = "<d" if b"<f8" in data[:128] else "<f"
    end = struct.pack(packing, number) if packing == "<d" or abs(number) != 1e300 else struct.pack(packing, 3e38)
    return data[: -len(end)] + end


@st.composite
def changed_content(draw: st.DrawFn, content: RecordDict) -> RecordDict:
    """One change of a reply's records."""
    records: dict[str, Any] = dict(content.items())
    kind = draw(st.sampled_from(["bytes", "other bytes", "number", "said", "metrics", "drop", "move", "double"]))
    arrays = arrays_of(content)
    said = dict(records_in(content, ConfigRecord).get(TRANSMISSION_KEY, ConfigRecord()).items())
    metrics = dict(records_in(content, MetricRecord).get("metrics", MetricRecord()).items())
    if kind in ("bytes", "other bytes", "number") and arrays:
        name, key = draw(st.sampled_from(arrays))
        old = dict(records_in(content, ArrayRecord)[name].items())
        if kind == "number":
            number = draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e300, 3e38, 0.0]))
            stype, data = "numpy.ndarray", with_last(old[key].data, number)
        elif kind == "bytes":
            stype, data = "numpy.ndarray", mutated(old[key].data, draw(st.lists(MUTATIONS, min_size=1, max_size=3)))
        else:
            stype, data = draw(st.sampled_from(["numpy.ndarray", "numpy.ndarray", "torch", ""])), draw(ARRAY_BYTES)
        records[name] = ArrayRecord({**old, key: Array("float64", (SIZE,), stype, data)})
    elif kind == "said":
        records[TRANSMISSION_KEY] = ConfigRecord({**said, draw(KEYS): draw(CONFIG_VALUES)})
    elif kind == "metrics":
        records["metrics"] = MetricRecord({**metrics, draw(METRICS): draw(METRIC_VALUES)})
    elif kind == "drop":
        records.pop(draw(NAMES), None)
    elif kind == "move" and records:
        records[draw(NAMES)] = records.pop(draw(st.sampled_from(sorted(records))))
    elif kind == "double" and records:
        records[draw(NAMES)] = records[draw(st.sampled_from(sorted(records)))]
    return RecordDict(records)


@st.composite
def hostile_replies(draw: st.DrawFn, reply: Message) -> list[Message]:
    """None, one, or several replies in place of one."""
    replies: list[Message] = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2, 3]))):
        content = reply.content
        for _ in range(draw(st.integers(0, 3))):
            content = draw(changed_content(content))
        if draw(st.integers(0, 9)) == 0:
            made = Message(Error(draw(st.integers(0, 300)), draw(st.text(max_size=400))), reply_to=reply)
        else:
            made = Message(content, reply_to=reply)
        if draw(st.integers(0, 19)) == 0:
            made.__dict__["_content"] = made.__dict__["_error"] = None  # neither content nor error
        answers = ["message-0", "message-1", "message-1", "message-1", "message-1", "message-9", ""]
        made.metadata.__dict__["_reply_to_message_id"] = draw(st.sampled_from(answers))
        made.metadata.__dict__["_src_node_id"] = draw(st.sampled_from([10 + HOSTILE] * 4 + [10, 1, 99]))
        replies.append(made)
    return replies
