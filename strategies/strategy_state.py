"""What a Flower strategy remembers from round to round, as plain values: momenta, the last model, and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from channel.memory import has_memory
from strategies.device_states import plain_record, record_of


def strategy_state(strategy: Strategy) -> dict[str, Any]:
    """All that :func:`restore_strategy` needs.

    Of a strategy that is a :class:`~channel.memory.Memory` what it says itself. Of others all attributes but
    functions: numbers, texts, arrays, Flower's records, lists and dicts of these, and strategies inside, which is what
    Flower's own strategies keep.

    What of it cannot be kept is found when the state is written. It holds the strategy's own arrays: write it before
    the strategy goes on.
    """
    if has_memory(strategy):
        return strategy.state()
    kept: dict[str, dict[str, Any]] = {"values": {}, "records": {}, "strategies": {}}
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy):
            kept["strategies"][name] = strategy_state(value)
        elif isinstance(value, ArrayRecord | MetricRecord | ConfigRecord):
            kept["records"][name] = value
        elif not callable(value):
            kept["values"][name] = value
    return kept | {"records": plain_record(RecordDict(kept["records"]))}


def restore_strategy(strategy: Strategy, state: Mapping[str, Any]) -> None:
    """Let a strategy, made as the other was, go on from its :func:`strategy_state`."""
    if has_memory(strategy):
        strategy.restore(state)
        return
    vars(strategy).update(state["values"], **record_of(state["records"]))
    for name, inner in state["strategies"].items():
        restore_strategy(vars(strategy)[name], inner)
