"""Scenarios: what is read, what is refused and in which words, and how variants are put over them."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clients.sources import DataUnavailable
from fedmac.build import rehearse
from fedmac.logs import quiet_flower
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import hold_in_variant, merge, nest
from fedmac.scenario_text import parse_settings, scenario_from_text
from tests.fedmac.small_scenario import SMALL, VARIANTS, small, without, write

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "scenarios").glob("*.toml"))

# What a person might type, and the words that must be in the answer: the key's path, the value, what is accepted.
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"data.devces": 3}, ["data.devces = 3", "unknown key", "did you mean devices?", "accepted: source, devices"]),
    ({"dta.devices": 3}, ["dta = ", "unknown key", "did you mean data?"]),
    ({"learning_rate": 0.1}, ["learning_rate = 0.1", "did you mean training.learning_rate?"]),
    ({"uplink.fading": "rician"}, ["uplink.fading = 'rician'", "did you mean channel.fading?"]),
    ({"rounds": "3"}, ["rounds = '3'", "accepted: an integer >= 0"]),
    ({"rounds": 2.5}, ["rounds = 2.5", "an integer >= 0"]),
    ({"rounds": True}, ["rounds = true", "an integer >= 0"]),
    ({"rounds": -1}, ["rounds = -1", "an integer >= 0"]),
    ({"seeds": 0}, ["seeds = 0", "an integer >= 1"]),
    ({"name": ""}, ["name = ''", "a text that is not empty"]),
    ({"name": "../elsewhere"}, ["name = '../elsewhere'", "accepted: a text without slashes"]),
    ({"data": 5}, ["data = 5", "accepted: a table with source, devices"]),
    ({"data.devices": "four"}, ["data.devices = 'four'", "an integer >= 1"]),
    ({"data.test_fraction": 1.0}, ["data.test_fraction = 1.0", "a number >= 0 and < 1"]),
    ({"data.partition": "dirichlet"}, ["data.alpha: missing", 'partition = "dirichlet"', "a number > 0"]),
    ({"data.partition": "diri"}, ["data.partition = 'diri'", "did you mean dirichlet?", '"shards"']),
    ({"data.alpha": 0.3}, ["data.alpha = 0.3", 'partition = "iid"', 'accepted: partition = "dirichlet"']),
    ({"training.learning_rate": 0}, ["training.learning_rate = 0", "a number > 0"]),
    ({"training.learning_rate": float("nan")}, ["training.learning_rate = nan", "a finite number > 0"]),
    ({"training.learning_rate": "fast"}, ["training.learning_rate = 'fast'", "a number > 0"]),
    ({"training.batch_size": 3}, ["training.batch_size = 3", "full_batch = true", "accepted: local_steps"]),
    ({"training.momentum": 0.9}, ["training.momentum = 0.9", "one step a round (local_steps = 1)", "more local_steps"]),
    ({"training.momentum": 1}, ["training.momentum = 1", "a number >= 0 and < 1"]),
    ({"strategy.name": "fedavgg"}, ["strategy.name = 'fedavgg'", "did you mean fedavg?", "accepted: fedavg,"]),
    ({"strategy.name": 3}, ["strategy.name = 3", "accepted: a text"]),
    ({"strategy.server_momentum": 0.3}, ["strategy.server_momentum = 0.3", "accepted: fraction_train"]),
    ({"strategy.fraction_train": 1.5}, ["strategy.fraction_train = 1.5", "a number > 0 and <= 1"]),
    ({"strategy.fraction_train": float("nan")}, ["strategy.fraction_train = nan", "a number > 0 and <= 1"]),
    (
        {"strategy.name": "krum"},
        ["strategy.name = 'krum'", "each device's own update", "fedprox", 'uplink.kind = "digital"'],
    ),
    (
        {"training": {"full_batch": True}},
        ["training.learning_rate: missing", 'strategy.name = "fedavg" needs it', "accepted: a number > 0"],
    ),
    (
        {"strategy.name": "dingo"},
        ["training.learning_rate = 0.5", 'strategy.name = "dingo"', "no steps", "accepted: learning_rate left out"],
    ),
    ({"strategy.name": "dingo", "training": {"momentum": 0.5}}, ["training.momentum = 0.5", "momentum left out"]),
    (
        {"strategy.name": "disco", "training": {}},
        ["uplink.kind = 'over-the-air'", 'strategy.name = "disco" is not there over the air yet', '"ideal"'],
    ),
    ({"strategy.name": "dingo", "training": {}}, ["uplink.code = 'random-linear'", "SNR", 'accepted: "uncoded", or']),
    ({"strategy.name": "giant", "training": {}}, ["uplink.code = 'random-linear'", "SNR", 'accepted: "uncoded"']),
    (
        {"strategy": {"name": "dingo", "over_the_air": "no"}, "training": {}, "uplink": {}},
        ["strategy.over_the_air = 'no'", "has noise", '"safe"'],
    ),
    ({"strategy": {"name": "dingo", "exchange": 3}, "training": {}}, ["strategy.exchange = 3", "accepted: a text"]),
    (
        {"strategy": {"name": "dingo", "thta": 3.0}, "training": {}},
        ["strategy.thta = 3.0", "did you mean theta?", "accepted: theta, phi, rho"],
    ),
    ({"uplink.ratio": 0}, ["uplink.ratio = 0", "a number > 0 and <= 1"]),
    ({"uplink.ratio": 1.5}, ["uplink.ratio = 1.5", "a number > 0 and <= 1"]),
    ({"uplink.ratio": 0.5, "uplink.uses": 3}, ["uplink.uses = 3", "ratio = 0.5", "one of the two"]),
    ({"uplink.kind": "digital"}, ["uplink.code = 'random-linear'", 'kind = "digital"', "accepted: code left out"]),
    ({"uplink.code": "uncoded", "uplink.ratio": 0.1}, ["uplink.ratio = 0.1", 'code = "uncoded"', "accepted: another"]),
    ({"uplink.error_feedback": True}, ["uplink.decoder = 'unbiased'", 'accepted: "projection"']),
    ({"uplink.trace": 1}, ["uplink.trace = 1", "true or false"]),
    ({"power_control.name": "min-mse"}, ["power_control.name = 'min-mse'", "did you mean minimum-mse?"]),
    ({"power_control.power": -1}, ["power_control.power = -1", "a number >= 0"]),
    (
        {"power_control.power": 1, "power_control.energy_per_round": 2},
        ["power_control.energy_per_round = 2", "power = 1", "accepted: one of power, energy_per_round"],
    ),
    (
        {"power_control": {"power": 1}, "channel": {"snr_db": 3}},
        ["power_control.power = 1", "channel.snr_db = 3", "accepted: one of the two"],
    ),
    ({"channel": {"snr_db": 3, "units": "physical"}, "power_control": {}}, ["channel.snr_db = 3", "normalised"]),
    ({"channel": {"snr_db": 3, "noise_power": 0}, "power_control": {}}, ["channel.snr_db = 3", "noise_power > 0"]),
    ({"engine.ray_address": "auto"}, ["engine.ray_address = 'auto'", 'accepted: kind = "flower"']),
    ({"power_control": {}, "channel": {"tx_power_dbm": 3}}, ["channel.tx_power_dbm = 3", "physical"]),
    ({"power_control.threshold": 0.1}, ["power_control.threshold = 0.1", '"truncated-inversion"']),
    (
        {"power_control.name": "truncated-inversion", "power_control.threshold": 0.0},
        ["power_control.threshold = 0.0", "accepted: a number > 0"],
    ),
    ({"channel.fading": "rician"}, ["channel.k_factor_db: missing", 'fading = "rician"', "accepted: a number"]),
    ({"channel.path_loss": "log-distance"}, ["channel.cell_radius_m: missing", "accepted: a number > 0"]),
    ({"channel.cell_radius_m": 5}, ["channel.cell_radius_m = 5.0", 'path_loss = "log-distance"']),
    ({"channel.shadowing_db": 8}, ["channel.shadowing_db = 8.0", 'path_loss = "log-distance"']),
    ({"engine.kind": "ray"}, ["engine.kind = 'ray'", '"local", "flower"']),
    ({"evaluation.every": 0}, ["evaluation.every = 0", "an integer >= 1"]),
    ({"variants": 3}, ["variants = 3", "accepted: an array"]),
    ({"variants": [3]}, ["variants[0] = 3", "accepted: a table"]),
    ({"variants": [{}]}, ["variants[0].name: missing", "accepted: a text"]),
    ({"variants": [{"name": "a/b"}]}, ["variants[0].name = 'a/b'", "accepted: a text without slashes"]),
    ({"variants": [{"name": "report.html"}]}, ["variants[0].name = 'report.html'", "accepted:"]),
    ({"variants": [{"name": "a"}, {"name": "A"}]}, ["variants[1].name = 'A'", "another variant", "a new one"]),
    ({"variants": [{"name": "a", "seed": 3}]}, ["variants[0].seed = 3", "accepted: seed at the top"]),
    ({"variants": [{"name": "a", "uplink": {"ratoi": 3}}]}, ['variant "a": uplink.ratoi = 3', "did you mean ratio?"]),
    ({"variants": [{"name": "a", "uplink": 3}]}, ['variant "a": uplink = 3', "accepted: a table with kind"]),
]

# What only the part itself knows; found before anything runs.
REFUSED_BY_ITS_PART: list[tuple[dict[str, Any], list[str]]] = [
    ({"data.source": "mnist"}, ["data.source = 'mnist'", "accepted: mnist-5k, digits"]),
    ({"data.devices": 2000}, ["data.devices = 2000", "1438 training rows"]),
    ({"model.name": "resnet"}, ["model.name = 'resnet'", "accepted: softmax, mlp, cnn"]),
    ({"model.name": "no.such:thing"}, ["model.name = 'no.such:thing'", "no module 'no'"]),
    ({"model.name": "mlp", "model.hiden": 3}, ["model 'mlp'", "'hiden'", "accepted: hidden"]),
    ({"training.device": "tpu"}, ["training.device", "'tpu'", "accepted: auto, cpu, cuda"]),
    ({"uplink": {"code": "random-linear", "uses": 10**9}}, ["uplink.uses", "1000000000", "accepted: 1 to 650"]),
    ({"variants": [{"name": "big", "data": {"devices": 2000}}]}, ['variant "big": data.devices = 2000']),
    (
        {"strategy": {"name": "dingo", "exchange": "oficial"}, "training": {}, "uplink": {"kind": "ideal"}},
        ["strategy.exchange = 'oficial'", "accepted: lean, official"],
    ),
    (
        {"strategy": {"name": "dingo", "theta": -1.0}, "training": {}, "uplink": {"kind": "ideal"}},
        ["strategy.theta = -1.0", "accepted: a finite number > 0"],
    ),
]


def refusal(changes: dict[str, Any]) -> str:
    """The message that a changed scenario is refused with; rivals are kept, as in a file that gives both."""
    content = json.loads(json.dumps(SMALL))
    for path, value in changes.items():
        *tables, key = path.split(".")
        place = content
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = value
    with pytest.raises(ScenarioError) as refused, quiet_flower():
        rehearse(Scenario.load(content))
    return str(refused.value)


@pytest.mark.parametrize(("changes", "words"), REFUSED + REFUSED_BY_ITS_PART, ids=lambda x: str(x)[:40])
def test_a_bad_scenario_is_refused_with_key_value_and_what_is_accepted(
    changes: dict[str, Any], words: list[str]
) -> None:
    message = refusal(changes)
    for word in words:
        assert word in message
    assert "Input should" not in message
    assert "instance of" not in message
    assert "\n" not in message


def test_everything_wrong_is_told_at_once() -> None:
    lines = refusal({"rounds": -1, "data.devices": 0, "uplink.ratoi": 1}).splitlines()
    assert sorted(re.split(r" = ", line)[0] for line in lines) == ["data.devices", "rounds", "uplink.ratoi"]


@pytest.mark.parametrize("key", ["name", "rounds", "data", "training"])
def test_what_a_scenario_needs_is_named_when_it_is_missing(key: str) -> None:
    with pytest.raises(ScenarioError, match=rf"^{key}: missing; accepted: (a text|an integer|a table)"):
        Scenario.load(without(key))


def test_a_data_set_that_is_not_here_and_cannot_be_fetched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match="nobody/no-such-set"), quiet_flower():
        rehearse(Scenario.load(small({"data.source": "hf:nobody/no-such-set"})))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such scenario file"),
        ("rounds = = 3", "not valid TOML"),
        ("rounds = 1\nrounds = 2", "not valid TOML"),
        ("\x00", "not valid TOML"),
    ],
)
def test_a_file_that_is_no_scenario_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "s.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ScenarioError, match=words) as refused:
        Scenario.load(path)
    assert str(path) in str(refused.value)


def test_a_folder_or_binary_file_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot be read: Is a directory; accepted: a TOML file"):
        Scenario.load(tmp_path)
    (tmp_path / "s.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="cannot be read"):
        Scenario.load(tmp_path / "s.toml")


@pytest.mark.parametrize("path", [*FILES, ROOT / "fedmac" / "starter.toml"], ids=lambda p: p.name)
def test_every_scenario_that_comes_along_is_accepted(path: Path) -> None:
    scenario = Scenario.load(path)
    assert [v.name for v in scenario.resolve()]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_a_resolved_scenario_reads_back_the_same(path: Path) -> None:
    for variant in Scenario.load(path).resolve():
        written = tomli_w.dumps(variant.scenario.content())
        assert Scenario.load(tomllib.loads(written)) == variant.scenario


def test_a_scenario_is_read_from_a_path_a_dict_and_a_scenario_alike(tmp_path: Path) -> None:
    content = small(variants=VARIANTS)
    path = write(tmp_path, content)
    scenario = Scenario.load(path)
    assert scenario == Scenario.load(str(path)) == Scenario.load(content) == Scenario.load(scenario)
    assert scenario_from_text(path.read_text()) == scenario_from_text(str(path)) == scenario


def test_reading_leaves_the_dict_as_it_was() -> None:
    content = small(variants=VARIANTS)
    before = json.dumps(content)
    Scenario.load(content, {"data.devices": 7, "uplink.ratio": 0.5})
    assert json.dumps(content) == before


def resolved(variant: dict[str, Any], base: dict[str, Any] | None = None, **overrides: Any) -> Scenario:
    """The one variant of a scenario, called v."""
    scenario = Scenario.load((base or small()) | {"variants": [{"name": "v"} | variant]}, overrides)
    (only,) = scenario.resolve()
    return only.scenario


def test_a_variant_overrides_what_it_says_and_inherits_the_rest() -> None:
    v = resolved({"rounds": 7, "uplink": {"ratio": 0.5}})
    assert (v.rounds, v.uplink.ratio, v.uplink.code, v.data.devices) == (7, 0.5, "random-linear", 4)
    assert v.name == "small"


def test_another_code_drops_the_decoder_and_uncoded_drops_the_length_too() -> None:
    base = small({"uplink.decoder": "projection", "uplink.error_feedback": True, "uplink.erasure": 0.1})
    mask = resolved({"uplink": {"code": "random-mask"}}, base).uplink
    assert (mask.ratio, mask.decoder, mask.error_feedback, mask.erasure) == (0.25, "unbiased", False, 0.1)
    plain = resolved({"uplink": {"code": "uncoded"}}, base).uplink
    assert (plain.ratio, plain.uses, plain.erasure) == (None, None, 0.1)


def test_another_policy_drops_the_parameters_of_the_old_one_and_keeps_the_limit() -> None:
    base = small({"power_control.name": "truncated-inversion", "power_control.threshold": 0.1})
    v = resolved({"power_control": {"name": "full-power", "receive": "lmmse"}}, base).power_control
    assert (v.name, v.threshold, v.energy_per_round) == ("full-power", None, 50.0)


def test_another_strategy_or_model_drops_its_parameters_and_keeps_the_shared_ones() -> None:
    base = small(
        strategy={"name": "fedavgm", "server_momentum": 0.9, "fraction_train": 0.5},
        model={"name": "mlp", "hidden": [8], "init": "zeros"},
    )
    v = resolved({"strategy": {"name": "fedadam"}, "model": {"name": "softmax"}}, base)
    assert v.strategy.parameters == {"fraction_train": 0.5}
    assert (v.model.parameters, v.model.init) == ({}, "zeros")
    assert resolved({"strategy": {"name": "fedavgm"}}, base).strategy.parameters["server_momentum"] == 0.9


@pytest.mark.parametrize(
    ("base", "variant"),
    [
        ({"channel": {"fading": "rician", "k_factor_db": 6.0}}, {"channel": {"fading": "none"}}),
        (
            {"channel": {"path_loss": "log-distance", "cell_radius_m": 50.0, "exponent": 2.5, "shadowing_db": 8.0}},
            {"channel": {"path_loss": "none"}},
        ),
        (
            {"channel": {"path_loss": "log-distance", "cell_radius_m": 50.0, "shadowing_db": 8.0}},
            {"channel": {"path_loss": "free-space", "carrier_ghz": 1.0}},
        ),
        ({"channel": {"units": "physical", "noise_figure_db": 7.0}}, {"channel": {"units": "normalised"}}),
        (
            {"training": {"learning_rate": 1.0, "full_batch": True, "local_steps": 2}},
            {"training": {"full_batch": False}},
        ),
        (
            {"data": {"source": "digits", "devices": 4, "partition": "shards", "shards": 2}},
            {"data": {"partition": "iid"}},
        ),
    ],
    ids=["fading", "path_loss", "other path_loss", "units", "training", "partition"],
)
def test_a_variant_can_choose_away_what_toml_cannot_unset(base: dict[str, Any], variant: dict[str, Any]) -> None:
    chosen = resolved(variant, small() | base).content()
    for table, keys in variant.items():
        for key, value in keys.items():
            assert chosen[table][key] == value


def test_a_variant_may_choose_a_strategy_that_takes_no_steps_on_the_devices() -> None:
    base = small({"training.local_steps": 3, "training.l2": 0.01})
    v = resolved({"strategy": {"name": "dingo", "theta": 0.1}, "uplink": {"kind": "ideal"}}, base)
    assert (v.training.learning_rate, v.training.local_steps, v.training.l2) == (None, None, 0.01)
    assert v.strategy.parameters == {"theta": 0.1}
    assert resolved({"rounds": 2}, base).training.learning_rate == 0.5


def test_a_variant_that_takes_steps_says_how_large_if_the_others_take_none() -> None:
    base = small({"strategy.name": "dingo", "uplink.kind": "ideal"})
    assert base["training"] == {"full_batch": True}
    v = resolved({"strategy": {"name": "fedavg"}, "training": {"learning_rate": 0.2}}, base)
    assert v.training.learning_rate == 0.2
    with pytest.raises(
        ScenarioError, match=r'variant "v": training\.learning_rate: missing, but strategy\.name = "fedavg"'
    ):
        resolved({"strategy": {"name": "fedavg"}}, base)


def test_one_limit_of_power_or_length_takes_the_place_of_another() -> None:
    v = resolved({"power_control": {"power": 2.0}, "uplink": {"uses": 30}})
    assert (v.power_control.power, v.power_control.energy_per_round) == (2.0, None)
    assert (v.uplink.uses, v.uplink.ratio) == (30, None)


def test_what_is_set_from_outside_holds_against_what_a_variant_says_itself() -> None:
    variant = {"rounds": 20, "power_control": {"energy_per_round": 500.0}, "training": {"learning_rate": 1.0}}
    v = resolved(variant, **{"rounds": 2, "power_control.power": 3.0, "training.learning_rate": 0.25})
    assert (v.rounds, v.training.learning_rate) == (2, 0.25)
    assert (v.power_control.power, v.power_control.energy_per_round) == (3.0, None)


def test_what_is_set_from_outside_means_nothing_to_a_variant_that_has_no_use_for_it() -> None:
    v = resolved({"uplink": {"code": "uncoded"}}, **{"uplink.ratio": 0.5})
    assert (v.uplink.code, v.uplink.ratio) == ("uncoded", None)


def test_a_strategy_set_from_outside_takes_the_place_of_the_variants_own() -> None:
    variant = {"strategy": {"name": "fedavgm", "server_momentum": 0.5}}
    assert resolved(variant, **{"strategy.name": "fedadam"}).strategy.model_dump() == {"name": "fedadam"}


@pytest.mark.parametrize("setting", ["uplink.ratio=0.2", "seed=3", "rounds=2", "uplink.code='random-mask'"])
@pytest.mark.parametrize("path", [f for f in FILES if "quickstart" in f.name], ids=lambda p: p.name)
def test_the_quickstarts_take_common_settings(path: Path, setting: str) -> None:
    (key, value), *_ = parse_settings([setting]).items()
    content = Scenario.load(path, {key: value}).content()
    for part in key.split("."):
        content = content[part]
    assert content == value


TABLES = st.dictionaries(
    st.sampled_from(["uplink", "power_control", "seed"]),
    st.dictionaries(st.sampled_from(["code", "name", "ratio", "uses", "power"]), st.integers(0, 3), max_size=3),
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(TABLES, TABLES)
def test_what_is_merged_over_a_scenario_is_in_it_and_merging_twice_changes_nothing(
    base: dict[str, Any], changes: dict[str, Any]
) -> None:
    once = merge(base, changes)
    assert all(once[table][key] == value for table, keys in changes.items() for key, value in keys.items())
    assert merge(once, changes) == once
    assert merge(base, {}) == base


@settings(max_examples=200, deadline=None)
@given(TABLES, TABLES)
def test_a_variant_takes_from_outside_only_tables_that_it_has(
    variant: dict[str, Any], overrides: dict[str, Any]
) -> None:
    assert hold_in_variant(variant, overrides).keys() == variant.keys()


def test_settings_are_read_as_toml_and_else_as_text() -> None:
    lines = ["a.b=5", "c = 0.5", "d=true", "e=[1, 2]", 'f="x=y"', "g=hf:owner/name", "h="]
    assert parse_settings(lines) == {
        "a.b": 5, "c": 0.5, "d": True, "e": [1, 2], "f": "x=y", "g": "hf:owner/name", "h": "",
    }  # fmt: skip
    for wrong in ("rounds", "=3"):
        with pytest.raises(ScenarioError, match="accepted: key=value"):
            parse_settings([wrong])


def test_a_key_is_not_a_value_and_a_table_at_once() -> None:
    assert nest({"a.b": 1, "a.c": {"d.e": 2}}) == {"a": {"b": 1, "c": {"d": {"e": 2}}}}
    with pytest.raises(ScenarioError, match="data is set to a value as well"):
        nest({"data": 3, "data.devices": 5})


def with_running_averages(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A model whose state is not all trained, for the scenario below."""
    inputs = math.prod(input_shape)
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(inputs), nn.Linear(inputs, num_classes))


def test_a_second_order_strategy_refuses_a_model_whose_state_is_not_all_trained() -> None:
    changes = {"strategy.name": "dingo", "uplink.kind": "ideal", "model.name": f"{__name__}:with_running_averages"}
    with pytest.raises(ScenarioError, match=r"model\.name = .*not trained.*accepted: a model without running averages"):
        rehearse(Scenario.load(small(changes)))
