"""How changes are put over a scenario: those of a variant, and those set from outside."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fedmac.scenario_air import CELLS, DISCS
from fedmac.scenario_errors import ScenarioError
from strategies.names import STRATEGIES

NOT_IN_VARIANTS = ("variants", "engine", "seed", "seeds")
"""Keys that are the same for all variants: they run side by side, under the same seeds."""

SELECTORS: dict[str, dict[str, frozenset[str]]] = {
    "data": {"partition": frozenset({"alpha", "shards", "column"})},
    "training": {"full_batch": frozenset({"local_steps", "local_epochs", "local_batches", "batch_size"})},
    "uplink": {
        "code": frozenset({"decoder", "error_feedback", "sparsity", "step"}),
        "kind": frozenset({"chips", "chip_fading"}),
    },
    "link": {"access": frozenset({"shares", "power"}), "packets": frozenset({"mean_bits"}), "name": frozenset()},
    "plan": {"name": frozenset({"decay", "every", "exponent", "pilot", "peak_energy", "min_uses", "max_uses"})},
    "power_control": {
        "name": frozenset({"total_power", "solver", "threshold", "receive", "mse", "infeasible", "peak_to_average"}),
        "combining": frozenset({"combining_mse"}),
    },
    "channel": {
        "kind": frozenset({"units", "fading", "path_loss", "trace", "hall_m", "variant"}),
        "units": frozenset({"noise_power", "noise_figure_db", "snr_db", "tx_power_dbm"}),
        "fading": frozenset({"k_factor_db", "correlation", "profile", "delay_spread_ns"}),
        "path_loss": frozenset({"exponent", "reference_loss_db", "shadowing_db"}),
    },
    "attackers": {"kind": frozenset({"factor"})},
    "network": {"link": frozenset({"up_mbps", "down_mbps", "latency_ms", "server_mbps", "server_tx_power_dbm"})},
    "impairments": dict.fromkeys(("timing_error_ns", "frequency_offset_hz", "availability"), frozenset()),
}
"""Keys that choose what others mean, with the others: these are let go when the choice changes."""

OPEN_SELECTORS: dict[str, tuple[str, frozenset[str]]] = {
    "model": ("name", frozenset({"init"})),
    "strategy": ("name", frozenset({"fraction_train", "fraction_evaluate"})),
    "codec": ("name", frozenset({"packing", "error_feedback"})),
    "link": (
        "name",
        frozenset(
            {
                "access",
                "shares",
                "power",
                "deadline_s",
                "retransmissions",
                "amplifier_efficiency",
                "circuit_power",
                "packets",
                "mean_bits",
                "fill",
                "select",
                "csi",
                "outer_loop",
            }
        ),
    ),
}
"""Tables whose further keys are parameters of what one key names, with the keys that stay when it changes."""

OF_CODES = frozenset({"code", "ratio", "uses", "decoder", "error_feedback", "sparsity", "step", "erasure", "trace"})
"""Keys of the uplink table about analog codes."""

ENDING_CHOICES: dict[tuple[str, str], tuple[tuple[str | float, ...], frozenset[str]]] = {
    ("uplink", "code"): (("uncoded", "majority-vote"), frozenset({"ratio", "uses"})),
    ("uplink", "kind"): (("digital", "non-coherent"), OF_CODES),
    ("impairments", "timing_error_ns"): ((0.0,), frozenset({"cyclic_prefix_ns"})),
    ("impairments", "frequency_offset_hz"): ((0.0,), frozenset({"slots", "slot_s", "pilot_slots"})),
    ("impairments", "availability"): ((1.0,), frozenset({"mean_outage"})),
    ("link", "packets"): (("as-coded",), frozenset({"fill"})),
    ("link", "name"): (("fixed-rate",), frozenset({"outer_loop"})),
}
"""Choices that leave no meaning even to keys which all the other choices share."""

RIVALS: dict[str, tuple[frozenset[str], ...]] = {
    "attackers": (frozenset({"count", "devices"}),),
    "channel": (frozenset({"snr_db", "tx_power_dbm"}), frozenset({"bandwidth_mhz", "prbs"})),
    "network": (frozenset({"peer_mbps", "peer_link"}),),
    "power_control": (frozenset({"power", "energy_per_round"}),),
    "training": (frozenset({"local_epochs", "local_batches"}),),
    "uplink": (frozenset({"ratio", "uses"}),),
}
"""Keys of which a table takes one: setting one of them lets go of the others."""

POWER_LIMITS = {table: RIVALS[table][0] for table in ("channel", "power_control")}
"""Keys of two tables that set the same limit: setting it in one table lets go of it in the other."""

STEP_KEYS = (
    "learning_rate", "warm_up", "local_steps", "local_epochs", "local_batches", "batch_size", "momentum", "clip_norm",
)  # fmt: skip
"""Keys of the training table about a device's own steps, which second-order strategies do not take."""


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, table by table.

    A change of what a table names (a power control, a code, a fading, a strategy, a model) drops the parameters of
    the old one, and a key drops its rivals: TOML has no way to say that a key is not there.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(base))
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict):
            dropped = _dropped(key, old, value)
            merged[key] = {k: v for k, v in old.items() if k not in dropped} | copy.deepcopy(dict(value))
        else:
            merged[key] = copy.deepcopy(value)
    return _without_steps(_with_one_power_limit(merged, changes), changes)


def _without_steps(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`content` without a device's own steps, if `changes` chooses a strategy that takes none."""
    strategy, training = changes.get("strategy"), content.get("training")
    named = STRATEGIES.get(str(strategy.get("name"))) if isinstance(strategy, Mapping) else None
    if named is None or not named.second_order or not isinstance(training, Mapping):
        return content
    given = _keys(changes, "training")
    return content | {"training": {k: v for k, v in training.items() if k in given or k not in STEP_KEYS}}


def variant_of(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with a variant's `changes`, and of the engine, which variants share, what its strategy takes."""
    content = merge(base, changes)
    engine, strategy = content.get("engine"), content.get("strategy", {})
    named = STRATEGIES.get(str(strategy.get("name", "fedavg"))) if isinstance(strategy, Mapping) else None
    if not isinstance(engine, Mapping) or named is None or (named.on_clock and not named.peers):
        return content
    return content | {"engine": {key: value for key, value in engine.items() if key != "checkpoint_arrivals"}}


def _with_one_power_limit(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`content` without the power limit of the table in which `changes` does not set it, if it does in the other."""
    given = {table: _keys(changes, table) & keys for table, keys in POWER_LIMITS.items()}
    for table, other in (("channel", "power_control"), ("power_control", "channel")):
        if given[other] and not given[table] and _keys(content, table) & POWER_LIMITS[table]:
            content = content | {table: {k: v for k, v in content[table].items() if k not in POWER_LIMITS[table]}}
    return content


def _keys(content: Mapping[str, Any], table: str) -> frozenset[str]:
    value = content.get(table)
    return frozenset(value) if isinstance(value, Mapping) else frozenset()


def _dropped(table: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """The keys of `old` that lose their meaning when `new` is put over it."""
    dropped: set[str] = set()
    for selector, owned in SELECTORS.get(table, {}).items():
        if selector in new and new[selector] != old.get(selector):
            dropped |= owned
            endings, more = ENDING_CHOICES.get((table, selector), ((), frozenset()))
            dropped |= more if new[selector] in endings else frozenset()
    selector, kept = OPEN_SELECTORS.get(table, ("", frozenset()))
    if selector in new and new[selector] != old.get(selector):
        dropped |= old.keys() - kept
    if table == "channel":
        dropped |= _of_another_channel(old, new)
    return dropped.union(*(rivals for rivals in RIVALS.get(table, ()) if rivals & new.keys()))


def _of_another_channel(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """The keys of an old channel that the new one has no use for: a cell's on a textbook channel, and so on."""
    owned, of_grids = SELECTORS["channel"], {"subcarrier_khz"} if "bandwidth_mhz" in new else set()
    if not owned.keys() & new.keys():
        return of_grids
    chosen, before = _channel_choices(old, new), _channel_choices(old, {})
    dropped = {key for selector in owned if chosen[selector] != before[selector] for key in owned[selector]}
    kind, cell, free_space = chosen["kind"], chosen["kind"] in CELLS, chosen["path_loss"] == "free-space"
    moves = cell or chosen["fading"] in ("tdl", "cdl")
    in_disc = kind in DISCS or chosen["path_loss"] != "none"
    useless = {
        "speed_kmh": not moves,
        "interval_s": not moves,
        "carrier_ghz": not (moves or free_space),
        "cell_radius_m": not in_disc,
        "minimum_distance_m": not in_disc,
        "indoor": kind not in DISCS,
    }
    return dropped | of_grids | {key for key, drop in useless.items() if drop}


def _channel_choices(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What the channel is once `new` is put over `old`, defaults included: those of another kind are its own."""
    kind = new.get("kind", old.get("kind", "textbook"))
    kept = old if kind == old.get("kind", "textbook") else {}
    usual = {"units": "physical" if kind in CELLS else "normalised", "fading": "none", "path_loss": "none"}
    return {"kind": kind} | {key: new.get(key, kept.get(key, default)) for key, default in usual.items()}


def hold_in_variant(variant: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A variant that does not take back what is set from outside.

    What the variant does not mention it inherits from the scenario, where the overrides hold already; so only what
    it says itself about the same thing gives way. A ratio set from outside thus means nothing to a variant that is
    uncoded, and is no error.
    """
    held: dict[str, Any] = {}
    variant = _with_one_power_limit(dict(variant), overrides)
    for key, value in overrides.items():
        if key in NOT_IN_VARIANTS or key == "name" or key not in variant:
            continue
        own = variant[key]
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            value = {k: v for k, v in value.items() if _about_the_same(key, k, own)}
        held[key] = value
    return merge(variant, held)


def _about_the_same(table: str, key: str, own: Mapping[str, Any]) -> bool:
    rivals = next((rivals for rivals in RIVALS.get(table, ()) if key in rivals), frozenset())
    chooses = key in SELECTORS.get(table, {}) or key == OPEN_SELECTORS.get(table, ("",))[0]
    return key in own or chooses or bool(rivals & own.keys())


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``.

    Raises
    ------
    ScenarioError
        If a key is set to a value and, with a dot, used as a table as well.
    """
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *tables, key = path.split(".")
        place = nested
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ScenarioError(f"{path} = {value!r}: {table} is set to a value as well; accepted: one of the two")
        place[key] = nest(value) if isinstance(value, Mapping) else value
    return nested
