"""Digital uplinks by scenario: what runs, what is refused in which words, and what is shown of a run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import load_file

import fedmac as product
from channel import CODECS, FACTOR_CODECS, DigitalUplink
from channel.links import ACCESSES, LINKS
from fedmac.build import build_strategy, build_uplink, rehearse
from fedmac.logs import quiet_flower
from fedmac.record import MEASURED
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import nest
from tests.fedmac.command_line import Command, one_line
from tests.fedmac.report_pages import body

SIZE = 650  # entries of a softmax model on 64 pixels

DIGITAL: dict[str, Any] = {
    "name": "packets",
    "rounds": 2,
    "data": {"source": "digits", "devices": 4},
    "training": {"learning_rate": 0.5, "full_batch": True},
    "uplink": {"kind": "digital"},
    "channel": {"fading": "rayleigh", "snr_db": 10.0},
    "engine": {"workers": 1},
}

LINK_PARAMETERS: dict[str, dict[str, Any]] = {"snr-gap": {"gap_db": 3.0}, "fixed-rate": {"bits_per_use": 0.5}}
CODEC_PARAMETERS: dict[str, dict[str, Any]] = {
    "dithered": {"levels": 3, "packing": "entropy"},
    "eden": {"bits": 0.5},
    "rotated-dithered": {"bits": 2.0},
    "scaled-sign": {"error_feedback": 1.0},
    "one-bit-sgd": {"bucket": "whole"},
    "top-k": {"fraction": 0.1, "error_feedback": 1.0},
    "compressive": {"error_feedback": 0.1},
}


def put(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The scenario with dotted keys changed and nothing let go, as in a file that says both."""
    changed: dict[str, Any] = json.loads(json.dumps(content))
    for path, value in changes.items():
        *tables, key = path.split(".")
        place = changed
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = value
    return changed


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def ran(out: Path, variants: list[dict[str, Any]], *, workers: int = 1, **top: Any) -> dict[str, list[dict[str, Any]]]:
    """The rounds of each variant of a digital scenario that was run."""
    product.run(put(DIGITAL, top) | {"variants": variants}, out=out, workers=workers)
    return {str(variant["name"]): rounds_of(out / str(variant["name"])) for variant in variants}


# What runs.


def test_every_codec_runs_from_a_scenario_and_its_packets_have_its_size(tmp_path: Path) -> None:
    variants = [{"name": name, "codec": {"name": name} | CODEC_PARAMETERS.get(name, {})} for name in CODECS]
    for name, rounds in ran(tmp_path / "run", variants).items():
        uplink = build_uplink(
            Scenario.load(put(DIGITAL, {"codec": {"name": name} | CODEC_PARAMETERS.get(name, {})})), seed=0
        )
        assert isinstance(uplink, DigitalUplink)
        order = uplink.packet_order(1, 0, range(4))
        for record in rounds[1:]:
            assert record["failures"] == [], name
            assert record["heard"], name
            sizes = [order.codec_of(device).bits(SIZE) for device in range(4)]
            if name == "rotated-dithered" or uplink.packing == "entropy":
                assert sum(record["packet_bits"]) == pytest.approx(sum(sizes), rel=0.5), name
            else:
                assert record["packet_bits"] == sizes, name
        assert math.isfinite(rounds[-1]["test_loss"]), name


def test_every_link_runs_with_every_access(tmp_path: Path) -> None:
    variants = [
        {
            "name": f"{link}-{access}",
            "link": {"name": link, "access": access, "retransmissions": 3} | LINK_PARAMETERS.get(link, {}),
        }
        for link in LINKS
        for access in ACCESSES
    ]
    for name, rounds in ran(tmp_path / "run", variants, **{"channel.snr_db": 20.0}).items():
        last = rounds[-1]
        assert last["channel_uses"] > 0, name
        assert last["energy_j_per_device_mean"] > 0, name
        assert len(last["rates"]) == len(last["snr_db"]) == len(last["attempts"]) == 4, name
        assert all(failure["reason"] == "lost on the link" for failure in last["failures"]), name


@pytest.mark.parametrize(
    "way",
    [
        {"access": "ofdma", "shares": "equal", "power": "equal-density"},
        {"access": "tdma", "power": "minimum-energy", "deadline_s": 0.05, "circuit_power": 0.1},
        {"amplifier_efficiency": 0.5},
    ],
    ids=lambda way: "-".join(map(str, way.values())),
)
def test_the_keys_of_the_link_reach_it(way: dict[str, Any]) -> None:
    uplink = build_uplink(Scenario.load(put(DIGITAL, {"link": way})), seed=0)
    assert isinstance(uplink, DigitalUplink)
    known = vars(uplink) | vars(uplink.access) | {"access": uplink.access.name}
    known["deadline_s"] = uplink.retransmission.deadline
    assert {key: known[key] for key in way} == way


def test_the_power_limit_is_that_of_the_scenario_whichever_way_it_is_said() -> None:
    without = {key: value for key, value in DIGITAL.items() if key != "channel"}
    for changes, power in (
        ({"channel": {"snr_db": 10.0, "noise_power": 2.0}}, 20.0),
        ({"power_control": {"power": 3.0}}, 3.0),
        ({"channel": {"units": "physical", "tx_power_dbm": 23.0}}, 10**2.3 / 1000),
        ({}, 1.0),
    ):
        uplink = build_uplink(Scenario.load(put(without, changes)), seed=0)
        assert isinstance(uplink, DigitalUplink)
        assert uplink.power_limit == pytest.approx(power)


@pytest.mark.parametrize("strategy", ["krum", "multikrum", "fedmedian", "fedtrimmedavg", "bulyan", "qfedavg"])
def test_strategies_that_need_each_update_can_be_named(strategy: str, tmp_path: Path) -> None:
    own = {"beta": 0.25} if strategy == "fedtrimmedavg" else {}  # of four devices the least that takes one away
    rounds = ran(tmp_path / "run", [{"name": "only", "strategy": {"name": strategy} | own}])["only"]
    assert rounds[-1]["test_loss"] < rounds[0]["test_loss"]


def test_q_fedavg_takes_the_learning_rate_of_the_devices_for_its_own() -> None:
    rates = []
    for own in ({}, {"client_learning_rate": 0.25}):
        strategy: Any = build_strategy(Scenario.load(put(DIGITAL, {"strategy": {"name": "qfedavg"} | own})))
        rates.append(strategy.client_learning_rate)
    assert rates == [0.5, 0.25]


def test_a_run_is_the_same_to_the_bit_on_one_worker_and_on_two(tmp_path: Path) -> None:
    """What a device keeps for error feedback lives with the worker that serves it."""
    variants = [
        {"name": "sign", "codec": {"name": "scaled-sign", "error_feedback": 1.0}},
        {"name": "nested", "codec": {"name": "nested"}, "strategy": {"fraction_train": 0.75}},
        {"name": "mcs", "link": {"name": "mcs", "retransmissions": 1}, "codec": {"packing": "entropy"}},
    ]
    one = ran(tmp_path / "one", variants, workers=1, rounds=4, **{"data.devices": 5})
    two = ran(tmp_path / "two", variants, workers=2, rounds=4, **{"data.devices": 5})
    for name in one:
        for here, there in zip(one[name], two[name], strict=True):
            assert {k: v for k, v in here.items() if k not in MEASURED} == {
                k: v for k, v in there.items() if k not in MEASURED
            }
        models = [load_file(tmp_path / folder / name / "model.safetensors") for folder in ("one", "two")]
        assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])
    assert any(record.get("suspected_wraps", 0) > 0 for record in one["nested"])


def test_packets_that_no_deadline_can_hold_are_not_sent_and_the_run_says_why(tmp_path: Path) -> None:
    rounds = ran(tmp_path / "run", [{"name": "late", "link": {"deadline_s": 1e-6}}])["late"]
    for record in rounds[1:]:
        assert {failure["reason"] for failure in record["failures"]} == {"not sent: would not be whole by the deadline"}
        assert (record["heard"], record["arrived"], record["channel_uses"]) == (False, [], 0)
    assert rounds[-1]["test_loss"] == rounds[0]["test_loss"]


# What is refused. The whole message each time: it is what a user has to go on.

CODEC_NAMES = (
    "dithered, nested, compressive, eden, rotated-dithered, qsgd, terngrad, scaled-sign, one-bit-sgd, top-k, rand-k, "
    "sparse-binary, factor, deterministic-factor"
)
OF_THE_AIR = 'is of the air; kind = "digital" sends packets, see the tables codec and link; accepted:'

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"codec.name": "dithred"},
        f"codec.name = 'dithred': unknown codec; did you mean dithered? accepted: {CODEC_NAMES}",
    ),
    (
        {"codec.level": 3},
        "codec.level = 3: dithered has no such parameter; did you mean levels? accepted: levels, bucket",
    ),
    ({"codec.levels": 2.5}, "codec.levels = 2.5: accepted: an integer from 1 to 32767, or 0.5 for one bit"),
    ({"codec.levels": "three"}, "codec.levels = 'three': a parameter of dithered; accepted: a number"),
    ({"codec.bucket": "all"}, "codec.bucket = 'all': accepted: an integer >= 1, or \"whole\" for one bucket"),
    ({"codec.bucket": 0.5}, 'codec.bucket = 0.5: a parameter of dithered; accepted: an integer, or "whole"'),
    (
        {"codec.name": "nested", "codec.levels": 2.5},  # the first group's plain quantiser
        "codec.levels = 2.5: accepted: an integer from 1 to 32767, or 0.5 for one bit",
    ),
    (
        {"codec.name": "nested", "codec.error_feedback": 1.0},
        "codec.error_feedback = 1.0: a device cannot tell what nested loses, which is decoded with what others send; "
        "accepted: error_feedback left out, or another codec",
    ),
    (
        {"codec.name": "compressive", "codec.error_feedback": 1.0},
        "codec.error_feedback = 1.0: with compressive, which is unbiased with an NMSE of 5.108, the residual grows "
        "without bound; accepted: below 0.3274, best 0.1637",
    ),
    (
        {"codec.error_feedback": 2.0},
        "codec.error_feedback = 2.0: accepted: a number > 0 and <= 1 (weight of error feedback on the devices; none if "
        "left out)",
    ),
    ({"codec.packing": "zip"}, 'codec.packing = \'zip\': accepted: "fixed", "entropy"'),
    (
        {"link.name": "shanon"},
        "link.name = 'shanon': unknown link; did you mean shannon? accepted: shannon, snr-gap, fixed-rate, mcs",
    ),
    ({"link.gap_db": 1.0}, "link.gap_db = 1.0: shannon has no such parameter; accepted: no parameters"),
    ({"link.name": "snr-gap"}, 'link.gap_db: missing, but name = "snr-gap" needs it; accepted: a number'),
    (
        {"link.name": "snr-gap", "link.gap_db": -1.0},
        "link.gap_db = -1.0: accepted: a finite number of dB >= 0",
    ),
    (
        {"link.name": "snr-gap", "link.gap_db": "x"},
        "link.gap_db = 'x': a parameter of snr-gap; accepted: a number",
    ),
    (
        {"link.name": "mcs", "link.block_errors": "tables"},
        "link.block_errors = 'tables': accepted: 'normal-approximation', 'sionna'",
    ),
    (
        {"link.access": "tdma", "link.power": "minimum-energy"},
        'link.deadline_s: missing, but power = "minimum-energy" stretches packets to it; accepted: seconds > 0',
    ),
    (
        {"link.access": "tdma", "link.power": "minimum-energy", "link.deadline_s": 1.0, "link.name": "mcs"},
        "link.power = 'minimum-energy': needs a rate for every power, which name = \"mcs\" does not have; accepted: "
        'name = "shannon" or "snr-gap", or power = "full"',
    ),
    ({"link.power": "full"}, "link.power = 'full': access = \"ofdma\"; accepted: 'own-band' or 'equal-density'"),
    (
        {"link.access": "tdma", "link.shares": "equal"},
        'link.shares = \'equal\': access = "tdma" shares no band; accepted: access = "ofdma"',
    ),
    (
        {"link.deadline_s": 0.0},
        "link.deadline_s = 0.0: accepted: a number > 0 (packets that come later are lost (default: none are))",
    ),
    ({"uplink.ratio": 0.5}, f"uplink.ratio = 0.5: {OF_THE_AIR} ratio left out"),
    ({"uplink.code": "random-linear"}, f"uplink.code = 'random-linear': {OF_THE_AIR} code left out"),
    ({"uplink.error_feedback": True}, f"uplink.error_feedback = true: {OF_THE_AIR} error_feedback left out"),
    (
        {"channel.snr_db": None, "power_control.energy_per_round": 3.0},
        "power_control.energy_per_round = 3.0: a packet's air time follows from its bits, and its energy from that; "
        "accepted: power_control.power, channel.tx_power_dbm or channel.snr_db",
    ),
    (
        {"strategy.name": "dingo", "training": {}},
        'uplink.kind = \'digital\': strategy.name = "dingo" sends vectors that are no updates; accepted: "ideal", '
        '"over-the-air"',
    ),
    (
        {"strategy.name": "krum", "uplink.kind": "ideal"},
        "strategy.name = 'krum': needs each device's own update, but uplink.kind = 'ideal' delivers only their mean; "
        "accepted: fedavg, fedavgm, fedadam, fedyogi, fedadagrad, fedprox, dingo, giant, disco, inexact-dane, aide, "
        "synchronous-sgd, synchronous, asynchronous, stale-synchronous, fedbuff, ring-all-reduce, gossip, "
        "elastic-averaging; or uplink.kind = "
        '"digital"',
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda x: str(x)[:50])
def test_a_bad_scenario_is_refused_with_key_value_and_what_is_accepted(changes: dict[str, Any], message: str) -> None:
    content = put(DIGITAL, {key: value for key, value in changes.items() if value is not None})
    for key in (key for key, value in changes.items() if value is None):
        table, name = key.split(".")
        del content[table][name]
    with pytest.raises(ScenarioError) as refused, quiet_flower():
        rehearse(Scenario.load(content))
    assert str(refused.value) == message


def test_tables_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channel.links.block_errors._table_path", _not_installed)
    from channel.links.block_errors import _curves

    _curves.cache_clear()
    with pytest.raises(ScenarioError, match=r'^link\.name = "mcs": block_errors=.sionna. needs Sionna'):
        Scenario.load(put(DIGITAL, {"link": {"name": "mcs", "block_errors": "sionna"}}))


def _not_installed() -> Path:
    raise ImportError("block_errors='sionna' needs Sionna's tables: pip install 'fedmac[3gpp]'")


# Variants and settings.

ANALOG = put(
    {key: value for key, value in DIGITAL.items() if key != "uplink"},
    {"uplink": {"code": "random-linear", "ratio": 0.1, "decoder": "projection", "error_feedback": True, "trace": True}},
)
KINDS = {"digital": DIGITAL, "analog": ANALOG}


def resolved(base: Mapping[str, Any], variant: Mapping[str, Any], **overrides: Any) -> Scenario:
    """The one variant of a scenario, called v."""
    scenario = Scenario.load({**base, "variants": [{"name": "v", **variant}]}, overrides)
    (only,) = scenario.resolve()
    return only.scenario


def test_a_digital_variant_lets_go_of_what_is_of_the_air() -> None:
    v = resolved(ANALOG, {"uplink": {"kind": "digital"}}).uplink
    assert v.model_dump(exclude_defaults=True) == {"kind": "digital"}


def test_an_ideal_variant_keeps_the_ratio_that_it_is_charged() -> None:
    v = resolved(ANALOG, {"uplink": {"kind": "ideal"}}).uplink
    assert (v.kind, v.ratio) == ("ideal", 0.1)


def test_a_digital_uplink_set_from_outside_holds_against_what_variants_say_of_the_air() -> None:
    variant = {"uplink": {"code": "random-mask", "uses": 30}}
    v = resolved(ANALOG, variant, **{"uplink.kind": "digital"}).uplink
    assert v.model_dump(exclude_defaults=True) == {"kind": "digital"}
    v = resolved(DIGITAL, {"uplink": {"kind": "ideal", "ratio": 0.5}}, **{"uplink.kind": "digital"}).uplink
    assert v.model_dump(exclude_defaults=True) == {"kind": "digital"}


def test_a_variant_over_the_air_brings_its_code() -> None:
    v = resolved(DIGITAL, {"uplink": {"kind": "over-the-air", "code": "random-linear", "ratio": 0.2}}).uplink
    assert (v.kind, v.code, v.ratio) == ("over-the-air", "random-linear", 0.2)


def test_another_codec_or_link_drops_the_parameters_of_the_old_one_and_keeps_the_shared_ones() -> None:
    base = put(
        DIGITAL,
        {
            "codec": {"name": "dithered", "levels": 3, "packing": "entropy", "error_feedback": 0.5},
            "link": {"name": "snr-gap", "gap_db": 3.0, "access": "tdma", "power": "full", "deadline_s": 2.0},
        },
    )
    v = resolved(base, {"codec": {"name": "eden"}, "link": {"name": "mcs"}})
    assert (v.codec.parameters, v.codec.packing, v.codec.error_feedback) == ({}, "entropy", 0.5)
    assert (v.link.parameters, v.link.access, v.link.power, v.link.deadline_s) == ({}, "tdma", "full", 2.0)
    assert resolved(base, {"codec": {"name": "dithered"}}).codec.parameters == {"levels": 3}
    other = resolved(base, {"link": {"access": "ofdma"}}).link
    assert (other.parameters, other.power, other.deadline_s) == ({"gap_db": 3.0}, None, 2.0)


def test_what_is_written_of_a_digital_variant_reads_back_the_same() -> None:
    v = resolved(DIGITAL, {"codec": {"name": "top-k", "fraction": 0.2}, "link": {"access": "tdma", "deadline_s": 0.5}})
    assert Scenario.load(put({}, json.loads(json.dumps(v.content())))) == v
    assert tomli_w.dumps(v.content())


# What is shown.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with packets that arrive, packets that are lost and an ideal uplink beside them."""
    out = tmp_path_factory.mktemp("shown") / "run"
    variants = [
        {"name": "perfect", "uplink": {"kind": "ideal"}},
        {"name": "dithered"},
        {"name": "lossy", "link": {"name": "fixed-rate", "bits_per_use": 8.0}},
    ]
    ran(out, variants, rounds=4)
    return out


def words(page: Path) -> str:
    """What a reader sees of a page, without its plots."""
    plain = re.sub(r"<(script|style|pre).*?</\1>", "", body(page), flags=re.S)
    return one_line(re.sub(r"<[^>]+>", " ", plain))


def test_the_report_of_packets_shows_who_was_heard_and_claims_nothing_of_amplitudes(
    folder: Path, fedmac: Command
) -> None:
    ended = fedmac("report", folder)
    assert ended.code == 0, ended.err
    text = words(folder / "report.html")
    assert "bits per device" in text
    assert "Channel gains" in text
    assert "lost on the link" in text
    assert "or whose packets did not arrive" in text
    for claim in ("Transmit power", "Error of the received mean", "of the limit", "error against theory", "failed."):
        assert claim not in text
    lost = [len(record["silent"]) for record in rounds_of(folder / "lossy")[1:]]
    assert sum(lost) > 0
    assert f"{4 - np.mean(lost):.3g} of 4" in text or "4 of 4" in text


def test_lost_packets_are_not_counted_as_failures_as_well(folder: Path) -> None:
    from fedmac.report.air_figures import silence_figure
    from fedmac.report.folder import read_run

    figure = silence_figure(read_run(folder).rounds)
    assert [(trace.name, trace.line.dash) for trace in figure.data] == [("lossy", "solid")]


def test_runs_of_packets_are_compared_over_their_bits(folder: Path, fedmac: Command) -> None:
    ended = fedmac("compare", folder, "--x", "bits", "--y", "test_loss", "--out", "comparison")
    assert ended.code == 0, ended.err
    said = one_line(ended.out)
    assert all(name in said for name in ("perfect", "dithered", "lossy"))
    assert "bits per device" in words(Path("comparison/comparison.html"))


def test_list_shows_what_each_codec_costs_and_loses(fedmac: Command) -> None:
    listed = fedmac("list", "codecs").out.splitlines()
    assert listed[0] == "codecs (codec.name)"
    assert [line.split()[0] for line in listed[1:]] == [*CODECS, *FACTOR_CODECS]
    by_name = {line.split()[0]: line for line in listed[1:]}
    # The reference figures: EDEN's distortions, and 1 - 2/pi = 0.363 of scaled signs.
    assert "[unbiased; 1.01 b: 0.571, 2.01 b: 0.133, 3.01 b: 0.0358]" in by_name["eden"]
    assert "[biased; 1.00 b: 0.363]" in by_name["scaled-sign"]
    assert all(" b: " in line for line in by_name.values())


def test_every_key_of_a_packets_record_is_documented(folder: Path) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "record.md").read_text()
    for record in rounds_of(folder / "dithered"):
        for key in record:
            stem = key.removesuffix("_max")
            assert f"`{key}`" in documented or f"`{stem}_mean`, `…_max`" in documented, key
    assert "`suspected_wraps`" in documented


def test_the_budget_of_a_digital_run_is_its_deadline() -> None:
    from fedmac.budget import budget_of

    assert budget_of(Scenario.load(DIGITAL), SIZE).channel_uses is None
    budget = budget_of(Scenario.load(put(DIGITAL, nest({"link.deadline_s": 0.01, "link.circuit_power": 5.0}))), SIZE)
    assert budget.channel_uses == 2 * 20_000
    assert budget.energy == pytest.approx(2 * (10.0 + 5.0) * 20_000)
