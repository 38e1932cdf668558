"""A whole run with a device whose app misbehaves in a new way each round ends with the good devices' model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from channel.order import DEVICE_QUERY, PACKET_KEY, SYMBOLS_KEY, TRANSMISSION_KEY
from clients.app import Workplace, client_app
from fedmac.build_devices import build_workplace
from fedmac.engines.local import LocalGrid
from fedmac.learn import learn
from fedmac.learning_task import LearningTask
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import small
from tests.fleet import MessageGrid

BAD = 2

Misbehaviour = Callable[[Message], Message]


def payload(reply: Message) -> str:
    return PACKET_KEY if PACKET_KEY in reply.content else SYMBOLS_KEY


def not_finite(reply: Message) -> Message:
    key = payload(reply)
    if key in reply.content:
        arrays = {name: array.numpy() for name, array in reply.content.array_records[key].items()}
        spoilt = {name: np.full_like(a, np.nan if a.dtype.kind == "f" else 255) for name, a in arrays.items()}
        reply.content[key] = ArrayRecord({name: Array(array) for name, array in spoilt.items()})
    return boasting(reply) if key not in reply.content else reply


def boasting(reply: Message) -> Message:
    for record in reply.content.metric_records.values():
        for name in ("num-examples", "weight"):
            if name in record:
                record[name] = 1e300
    return reply


def enormous(reply: Message) -> Message:
    said = reply.content.config_records.get(TRANSMISSION_KEY, ConfigRecord())
    norms = {name: 1e60 for name in said if name.endswith("norm")}
    reply.content[TRANSMISSION_KEY] = ConfigRecord({**said, **norms})
    return reply if norms else boasting(reply)


def talking(reply: Message) -> Message:
    reply.content = RecordDict({TRANSMISSION_KEY: ConfigRecord({"norm": "rather long", "seed": "yesterday's"})})
    return reply


def garbage(reply: Message) -> Message:
    noise = Array("float32", (1,), "numpy.ndarray", b"\x93NUMPY" + bytes(range(256)))
    reply.content[payload(reply)] = ArrayRecord(dict.fromkeys((payload(reply), "gradient", "direction"), noise))
    return boasting(reply)


def endless(reply: Message) -> Message:
    reply.content["metrics"] = MetricRecord({"num-examples": 3, "weight": 3, "loss": [0.0] * 100_000})
    return reply


MISBEHAVIOURS: list[Misbehaviour] = [not_finite, boasting, enormous, talking, garbage, endless]

SCENARIOS: dict[str, dict[str, Any]] = {
    "over the air": {},
    "uncoded": {"uplink.code": "uncoded", "uplink.ratio": None},
    "error feedback": {"uplink.decoder": "projection", "uplink.error_feedback": True, "strategy.name": "fedavgm"},
    "sparse-amp": {"uplink.code": "sparse-amp"},
    "ideal, adam": {"uplink.kind": "ideal", "strategy.name": "fedadam"},
    "packets": {"uplink.kind": "digital", "codec.name": "eden", "power_control.energy_per_round": None},
    "nested packets": {"uplink.kind": "digital", "codec.name": "nested", "power_control.energy_per_round": None},
    "median of packets": {
        "uplink.kind": "digital", "strategy.name": "fedmedian", "power_control.energy_per_round": None,
    },
    "second order": {"strategy.name": "dingo", "uplink.kind": "ideal", "training.learning_rate": None},
}  # fmt: skip


def scenario(name: str) -> Scenario:
    changes = {"data.devices": 5, "rounds": 8, **SCENARIOS[name]}
    content = small({key: value for key, value in changes.items() if value is not None})
    for key in (key for key, value in changes.items() if value is None):
        table, _, inner = key.partition(".")
        content[table].pop(inner, None)
    if name == "second order":
        content["training"] = {"l2": 1e-2}
    if name.endswith("packets"):
        content["uplink"] = {"kind": "digital"}
    return Scenario.load(content)


def gone(reply: Message) -> Message:
    raise RuntimeError("gone")


def app_of(work: Workplace, misbehaviours: list[Misbehaviour]) -> Callable[[Message, Context], Message]:
    """The devices' app, of which one meddles with every reply on its way out, each time otherwise."""
    app: ClientApp = client_app(lambda _context, _config: work)
    turn = iter(range(10**6))

    def handle(message: Message, context: Context) -> Message:
        asked = DEVICE_QUERY in message.content.config_records
        reply = app(message, context)
        if context.node_config["partition-id"] != BAD or asked:
            return reply
        return misbehaviours[next(turn) % len(misbehaviours)](reply)

    return handle


def run(name: str, misbehaviours: list[Misbehaviour]) -> tuple[NDArray[Any], list[dict[str, Any]]]:
    chosen = scenario(name)
    work = build_workplace(chosen, chosen.seed)
    records: list[dict[str, Any]] = []
    grid = MessageGrid(LocalGrid(work, app_of(work, misbehaviours)))  # type: ignore[arg-type]
    (variant,) = chosen.resolve()
    model = learn(LearningTask(variant, chosen.seed, work, records.append), grid)
    return np.concatenate([array.reshape(-1) for array in model.values()]), records


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_run_ends_with_the_model_of_the_good_devices(name: str) -> None:
    model, records = run(name, MISBEHAVIOURS)
    without, _ = run(name, [gone])
    assert np.isfinite(model).all()
    np.testing.assert_array_equal(model, without)
    failures = [failure for record in records for failure in record.get("failures", [])]
    assert {failure["device"] for failure in failures if failure["kind"] != "lost"} == {BAD}
    assert set(records[-1]["bad_replies"]) == {str(BAD)}
    heard = [set(record.get("devices", [])) - set(record.get("silent", [])) for record in records]
    assert all(BAD not in devices for devices in heard)


def test_it_is_asked_three_times_and_then_not_for_five_rounds() -> None:
    _, records = run("over the air", MISBEHAVIOURS)
    asked = [not any(one["device"] == BAD for one in record.get("not_asked", [])) for record in records[1:]]
    assert asked == [True] * 3 + [False] * 5
    assert [len(record["failures"]) for record in records[1:]] == [1] * 3 + [0] * 5
