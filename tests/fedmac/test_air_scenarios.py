"""The keys of a scenario about the air: what runs, what is refused in which words, and what a run records of it."""

from __future__ import annotations

import copy
import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from safetensors.numpy import load_file

import fedmac as product
from channel import AnalogUplink, NonCoherentUplink
from channel.trace import write_trace
from fedmac.air_refusals import AirError
from fedmac.build import build_uplink, rehearse
from fedmac.build_channel import build_channel
from fedmac.build_devices import build_workplace
from fedmac.learn import learn
from fedmac.learning_task import LearningTask
from fedmac.logs import quiet_flower
from fedmac.record import MEASURED
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import merge, nest
from tests.fedmac.command_line import Command, one_line
from tests.fedmac.test_digital_scenarios import put
from tests.fleet import local_grid, message_grid

ROOT = Path(__file__).resolve().parents[2]
SIZE = 650  # entries of a softmax model on 64 pixels

AIR: dict[str, Any] = {
    "name": "air",
    "rounds": 2,
    "data": {"source": "digits", "devices": 4},
    "training": {"learning_rate": 0.5, "full_batch": True},
    "uplink": {"code": "random-linear", "ratio": 0.25},
    "engine": {"workers": 1},
}
RAYLEIGH: dict[str, Any] = {"channel": {"fading": "rayleigh", "snr_db": 10.0}}
CELL: dict[str, Any] = {"carrier_ghz": 3.5, "tx_power_dbm": 23.0}
DELAY_LINE: dict[str, Any] = {"carrier_ghz": 3.5, "speed_kmh": 30.0, "subbands": 3, "snr_db": 10.0}
needs_sionna = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('sionna')", reason="extra 3gpp")

Rounds = list[dict[str, Any]]


def rounds_of(folder: Path) -> Rounds:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def ran(out: Path, variants: Mapping[str, dict[str, Any]], **top: Any) -> dict[str, Rounds]:
    """The rounds of each variant, put over a scenario on Rayleigh fading at 10 dB."""
    named = [{"name": name, **nest(changes)} for name, changes in variants.items()]
    product.run(merge(AIR | RAYLEIGH, nest(top)) | {"variants": named}, out=out, workers=1, report=False)
    return {name: rounds_of(out / name) for name in variants}


def scenario(changes: Mapping[str, Any]) -> Scenario:
    return Scenario.load(put(AIR, copy.deepcopy(dict(changes))))


def refusal(changes: Mapping[str, Any]) -> str:
    with pytest.raises(ScenarioError) as refused, quiet_flower():
        rehearse(scenario(changes))
    return str(refused.value)


# Channels.


@needs_sionna
def test_every_kind_of_channel_runs_by_its_name_and_each_has_gains_of_its_own(tmp_path: Path) -> None:
    write_trace(tmp_path / "gains.csv", np.array([[1.0, 0.5j, 2.0, 1.0 + 1.0j], [0.5, 0.5, 1.0, -1.0]]))
    cells = {kind: {"channel": {"kind": kind, **CELL}} for kind in ("umi", "uma", "rma", "inh", "inf")}
    lines = {line: {"channel": {"fading": line, "profile": "C", **DELAY_LINE}} for line in ("tdl", "cdl")}
    others: dict[str, dict[str, Any]] = {
        "trace": {"channel": {"kind": "trace", "trace": str(tmp_path / "gains.csv")}},
        "walkers": {"channel": {"kind": "umi", **CELL, "speed_kmh": 3.0, "indoor": 0.5, "subbands": 4, "antennas": 4}},
        "hall": {"channel": {"kind": "inh", **CELL, "hall_m": [60.0, 30.0, 3.0]}},
        "dense factory": {"channel": {"kind": "inf", **CELL, "variant": "DL"}},
    }
    runs = ran(tmp_path / "run", cells | lines | others)
    for name, rounds in runs.items():
        assert [record["heard"] for record in rounds[1:]] == [True, True], name
        assert math.isfinite(rounds[-1]["test_loss"]), name
    gains = {tuple(rounds[1]["gains"]) for rounds in runs.values()}
    assert len(gains) == len(runs)
    assert runs["trace"][1]["gains"] == pytest.approx([1.0, 0.5, 2.0, math.sqrt(2.0)])
    assert runs["umi"][1]["gains"] == runs["umi"][2]["gains"]  # nothing moves at speed 0
    assert runs["walkers"][1]["gains"] != runs["walkers"][2]["gains"]


@needs_sionna
def test_the_keys_of_a_cell_reach_it_in_the_units_of_its_name() -> None:
    keys = {"kind": "uma", **CELL, "bandwidth_mhz": 5.0, "noise_figure_db": 7.0, "speed_kmh": 36.0, "interval_s": 0.5}
    shape = {"cell_radius_m": 200.0, "minimum_distance_m": 40.0, "indoor": 0.25, "subbands": 3, "antennas": 2}
    channel = build_channel(scenario({"channel": keys | shape}), seed=0)
    cell: Any = channel.fading
    assert (cell.kind, cell.carrier_ghz, cell.bandwidth_hz, cell.round_s) == ("uma", 3.5, 5e6, 0.5)
    assert (cell.cell_radius_m, cell.minimum_distance_m, cell.indoor_share) == (200.0, 40.0, 0.25)
    assert (channel.physical, channel.bandwidth, channel.subbands, channel.antennas) == (True, 5e6, 3, 2)
    assert 10 * math.log10(channel.noise_power) + 30 == pytest.approx(-174.0 + 10 * math.log10(5e6) + 7.0)
    assert cell.rounds_per_epoch == 7  # 10 m/s for half a second, and a correlation distance of 37 m


def test_several_antennas_hear_better_and_the_optimised_combiner_expects_the_least_error(tmp_path: Path) -> None:
    rules = ("optimised", "zero-forcing", "mrc")
    four = {rule: {"channel.antennas": 4, "power_control.combining": rule} for rule in rules}
    runs = ran(tmp_path / "run", four | {"one": {}}, rounds=1)
    error = {name: rounds[1]["signal_mse_predicted"] for name, rounds in runs.items()}
    # The optimum is a local one from starts that include the other two rules.
    assert error["optimised"] <= min(error["zero-forcing"], error["mrc"]) * (1 + 1e-9)
    assert error["optimised"] < error["one"]


def test_subbands_have_gains_of_their_own_and_every_power_control_deals_with_them(tmp_path: Path) -> None:
    policies: dict[str, dict[str, Any]] = {
        "minimum-mse": {"solver": "closed-form"},
        "channel-inversion": {},
        "truncated-inversion": {},
        "full-power": {},
        "minimum-power": {"mse": 0.9},
        "average-power": {"peak_to_average": 4.0},
        "total-power": {"total_power": 5.0},
    }
    variants = {name: {"power_control": {"name": name, **keys}} for name, keys in policies.items()}
    for name, rounds in ran(tmp_path / "run", variants, **{"channel.subbands": 5}).items():
        record = rounds[1]
        assert record["heard"], name
        peak = 4.0 if name == "average-power" else 1.0
        assert max(record["amplitudes"]) ** 2 <= record["power_limit"] * peak * (1 + 1e-6), name
    assert (
        build_channel(scenario(RAYLEIGH | {"channel.subbands": 5}), 0).state(1, range(4), 4, 0).response.shape[0] == 5
    )


# Imperfect radios.

IMPAIRMENTS: dict[str, dict[str, Any]] = {
    "pilots": {"pilots": 1, "pilot_power": 0.5},
    "least-squares": {"pilots": 1, "pilot_power": 0.5, "estimator": "least-squares", "frame_s": 1e-4},
    "age": {"csi_correlation": 0.8},
    "phase": {"phase_error_deg": 20.0},
    "timing": {"timing_error_ns": 300.0, "cyclic_prefix_ns": 2000.0},
    "frequency": {"frequency_offset_hz": 200.0, "slots": 3, "slot_s": 1e-3, "pilot_slots": 2},
    "clipping": {"clip_db": 0.0},
    "ofdm clipping": {"clip_db": 0.0, "subcarriers": 16},
    "converter": {"adc_bits": 2},
    "interference": {"interference_db": 6.0, "interferers": 3},
}


@pytest.fixture(scope="module")
def impaired(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rounds]:
    """One round of a perfect radio and of each impairment, all with the same devices, fading and noise."""
    variants: dict[str, dict[str, Any]] = {name: {"impairments": keys} for name, keys in IMPAIRMENTS.items()}
    return ran(tmp_path_factory.mktemp("impaired") / "run", variants | {"perfect": {}}, rounds=1)


@pytest.mark.parametrize("name", IMPAIRMENTS)
def test_each_impairment_changes_what_is_received(impaired: dict[str, Rounds], name: str) -> None:
    record, perfect = impaired[name][1], impaired["perfect"][1]
    assert record["signal_mse_measured"] != perfect["signal_mse_measured"]
    assert math.isfinite(record["test_loss"])
    assert record["update_norms"] == perfect["update_norms"]


def test_pilots_are_in_the_ledger(impaired: dict[str, Rounds]) -> None:
    perfect, once, framed = (impaired[name][1] for name in ("perfect", "pilots", "least-squares"))
    # Four devices, one complex use each; the 81 complex uses of the code fit into a frame of 100 with the 4 of pilots.
    for record, uses in ((once, 8), (framed, 8)):
        assert record["pilot_uses"] == uses
        assert record["channel_uses"] == perfect["channel_uses"] + uses
        assert record["air_time_s"] == pytest.approx(perfect["air_time_s"] + uses / 2e6)
    amplitudes = np.array(once["amplitudes"])
    assert once["energies"] == pytest.approx(amplitudes**2 * perfect["channel_uses"] + 2 * 0.5)
    assert "pilot_uses" not in perfect


def test_interference_is_in_the_noise_power(impaired: dict[str, Rounds]) -> None:
    assert impaired["perfect"][1]["noise_power"] == 1.0
    assert impaired["interference"][1]["noise_power"] > 1.0


def test_a_digital_link_pays_for_pilots_and_loses_packets_to_channels_it_overrates(tmp_path: Path) -> None:
    digital = {"uplink.kind": "digital"}
    runs = ran(
        tmp_path / "run",
        {
            "perfect": digital,
            "pilots": digital | {"impairments.pilots": 2, "link.amplifier_efficiency": 0.5, "link.circuit_power": 3.0},
            "sure": digital | {"link.amplifier_efficiency": 0.5, "link.circuit_power": 3.0},
            "old": digital | {"impairments.csi_correlation": 0.5},
        },
        rounds=4,
    )
    lost = {name: sum(len(record["silent"]) for record in rounds[1:]) for name, rounds in runs.items()}
    assert (lost["perfect"], lost["sure"]) == (0, 0)
    assert lost["old"] > 0
    one, free = runs["pilots"][1], runs["sure"][1]
    assert one["pilot_uses"] == 2 * 2 * 4
    assert "pilot_uses" not in free
    # What is known of the channel changes the packets' own time; with the channel as known, only pilots differ.
    exact = ran(
        tmp_path / "exact",
        {
            "paid": digital | {"impairments": {"pilots": 2, "pilot_power": 1e12}, "link.circuit_power": 3.0},
            "free": digital | {"link.circuit_power": 3.0},
        },
        rounds=1,
    )
    paid, free = exact["paid"][1], exact["free"][1]
    # A channel known to one part in 10^6 moves rates, and with them uses and energies, by about as much.
    assert paid["channel_uses"] - 16 == pytest.approx(free["channel_uses"], rel=1e-4)
    drawn = np.array(paid["energies"]) - np.array(free["energies"])
    assert drawn == pytest.approx(np.full(4, 2 * 2 * (1e12 + 3.0)), rel=1e-6)


# Devices that cannot be reached.


@pytest.mark.parametrize("burst", [{}, {"mean_outage": 3.0}], ids=["bernoulli", "bursty"])
def test_who_cannot_be_reached_is_not_asked_on_any_link_and_the_others_weigh_more(
    tmp_path: Path, burst: dict[str, float]
) -> None:
    kinds = ("over-the-air", "ideal", "digital", "non-coherent")
    runs = ran(
        tmp_path / "run",
        {kind: {"uplink.kind": kind} for kind in kinds} | {"all": {"impairments.availability": 1.0}},
        rounds=6,
        impairments={"availability": 0.5, **burst},
        **{"data.partition": "dirichlet", "data.alpha": 1.0},
    )
    share = np.array(runs["all"][1]["weights"])
    away: dict[str, list[list[int]]] = {}
    for kind in kinds:
        for record in runs[kind][1:]:
            left_out = [item["device"] for item in record.get("not_asked", [])]
            assert all(item["reason"] == "unreachable" for item in record.get("not_asked", []))
            assert sorted(record["devices"] + left_out) == [0, 1, 2, 3]
            assert record["failures"] == []
            if record["devices"]:
                here = share[record["devices"]]
                np.testing.assert_allclose(record["weights"], here / here.sum(), rtol=1e-12)
            else:
                assert not record["heard"]
            away.setdefault(kind, []).append(left_out)
    assert away["over-the-air"] == away["ideal"] == away["digital"] == away["non-coherent"]
    assert 0 < sum(map(len, away["ideal"])) < 24
    assert all("not_asked" not in record for record in runs["all"])


def test_a_round_in_which_nobody_is_reached_costs_nothing_and_leaves_the_model(tmp_path: Path) -> None:
    for kind, rounds in ran(
        tmp_path / "run",
        {kind: {"uplink.kind": kind} for kind in ("over-the-air", "ideal", "digital", "non-coherent")},
        **{"impairments.availability": 1e-9},
    ).items():
        last = rounds[-1]
        assert (last["heard"], last["channel_uses"], last["devices"]) == (False, 0, []), kind
        assert len(last["not_asked"]) == 4, kind
        assert last["test_loss"] == rounds[0]["test_loss"], kind


def test_dingo_over_the_air_goes_on_with_those_it_reaches_exchange_by_exchange(tmp_path: Path) -> None:
    dingo = {"strategy.name": "dingo", "uplink.code": "uncoded", "channel.snr_db": 80.0}
    rounds = ran(tmp_path / "run", {"dingo": dingo}, rounds=3, **{"impairments.availability": 0.8})["dingo"]
    reasons = {item["reason"] for record in rounds[1:] for item in record.get("not_asked", [])}
    assert reasons == {"unreachable"}
    assert any(0 < record["participants"] < 4 for record in rounds[1:])
    assert rounds[-1]["test_loss"] < 0.5 * rounds[0]["test_loss"]


def test_pilots_of_an_exchange_of_several_vectors_are_sent_once(tmp_path: Path) -> None:
    dingo = {"strategy.name": "dingo", "uplink.code": "uncoded", "channel.snr_db": 80.0}
    runs = ran(tmp_path / "run", {"free": dingo, "paid": dingo | {"impairments.pilots": 1}}, rounds=1)
    free, paid = runs["free"][1], runs["paid"][1]
    assert paid["exchange"] == free["exchange"]
    assert paid["channel_uses"] - free["channel_uses"] == 8 * paid["exchange"]


# Targets and plans.


def test_a_target_out_of_reach_ends_the_run_and_says_what_is_within_reach(tmp_path: Path) -> None:
    target = put(AIR, RAYLEIGH | {"rounds": 1, "power_control": {"name": "minimum-power", "mse": 1e-4}})
    with pytest.raises(AirError) as met:
        product.run(target, out=tmp_path / "far", report=False)
    said = re.fullmatch(
        r"power_control\.mse = 0\.0001: accepted in this exchange: at least (\d\.\d+), the best within the limits "
        r"\(more power, or infeasible='least-error'\)",
        str(met.value),
    )
    assert said is not None, met.value
    # What it says is the best to six digits, so a hair more is within reach, and a hair less is not.
    best = float(said[1])
    for factor, reached in ((1 + 1e-5, True), (1 - 1e-5, False)):
        near = put(target, {"power_control.mse": best * factor, "power_control.infeasible": "least-error"})
        product.run(near, out=tmp_path / str(reached), report=False)
        record = rounds_of(tmp_path / str(reached))[1]
        assert ("warnings" not in record) == reached
    assert record["warnings"][0].endswith("the least-error allocation was used")


def test_the_command_line_says_what_the_air_met_without_a_traceback(fedmac: Command, tmp_path: Path) -> None:
    target = RAYLEIGH | {"power_control": {"name": "minimum-power", "mse": 1e-4}}
    Path("air.toml").write_text(tomli_w.dumps(put(AIR, target)))
    ended = fedmac("run", "air.toml")
    assert ended.code == 1
    assert one_line(ended.err).startswith("fedmac: power_control.mse = 0.0001: accepted in this exchange: at least 0.")
    assert "Traceback" not in ended.err
    for key, value in (("impairments.pilot", 3), ("channel.kind", "umii"), ("plan.name", "pilots")):
        refused = fedmac("run", "air.toml", "--set", f"{key}={value}", "--out", "refused")
        assert refused.code == 2
        assert refused.err.startswith(f"fedmac: {key} = ")
        assert "did you mean" in one_line(refused.err)
    assert not Path("refused").exists()


def test_a_plan_spends_what_equal_rounds_would_and_more_of_it_early(tmp_path: Path) -> None:
    pilot = tmp_path / "pilot.json"
    pilot.write_text(json.dumps({"mean_norms": [4.0, 2.0, 1.0, 1.0], "largest_energies": [4.0, 1.0, 1.0, 1.0]}))
    runs = ran(
        tmp_path / "run",
        {
            "constant": {},
            "power-law": {"plan": {"name": "power-law", "every": 2, "exponent": 1.0}},
            "pilot": {"plan": {"name": "pilot", "pilot": str(pilot)}},
            "narrow": {"plan": {"name": "power-law", "max_uses": 200, "min_uses": 100, "peak_energy": 2000.0}},
        },
        rounds=4,
        **{"channel.fading": "none"},
    )
    uses = {name: np.diff([0] + [r["channel_uses"] for r in rounds[1:]]) for name, rounds in runs.items()}
    assert uses["constant"].tolist() == [162] * 4
    for name in ("power-law", "pilot"):
        assert uses[name].sum() == 4 * 162, name
        energy = runs[name][-1]["energy_j_per_device_max"]
        assert energy <= runs["constant"][-1]["energy_j_per_device_max"] * (1 + 1e-9), name
    assert (np.diff(uses["power-law"]) <= 0).all()
    assert uses["pilot"] == pytest.approx(4 * 162 * np.array([4, 2, 1, 1]) / 8, abs=1)  # in proportion to the norms
    assert (uses["narrow"] >= 100).all()
    assert (uses["narrow"] <= 200).all()
    spent = np.array([max(r["energies"]) for r in runs["narrow"][1:]])
    assert (spent <= 2000.0 * (1 + 1e-9)).all()


def test_planned_blocks_take_what_one_code_does(tmp_path: Path) -> None:
    mlp = {"model": {"name": "mlp", "hidden": [32]}, "uplink.ratio": 0.1}
    variants = {"one": {}, "blocks": {"plan.blocks": True}, "both": {"plan": {"name": "power-law", "blocks": True}}}
    runs = ran(tmp_path / "run", variants, rounds=4, **mlp)
    for name, rounds in runs.items():
        assert rounds[-1]["channel_uses"] == runs["one"][-1]["channel_uses"], name
        assert all(r["mse_predicted"] is not None for r in rounds[1:]), name  # blocks have a closed form too
    assert runs["blocks"][-1]["test_loss"] != runs["one"][-1]["test_loss"]


def test_a_warm_up_takes_its_first_steps_in_equal_parts(tmp_path: Path) -> None:
    runs = ran(tmp_path / "run", {"at once": {}, "slow": {"training.warm_up": 4}}, **{"uplink.kind": "ideal"})
    norms = [np.array(runs[name][1]["update_norms"]) for name in ("slow", "at once")]
    np.testing.assert_allclose(norms[0], norms[1] / 4, rtol=1e-5)  # float32 updates


# Votes and energies.


def test_a_majority_vote_moves_every_entry_by_its_step(tmp_path: Path) -> None:
    rounds = ran(
        tmp_path / "run",
        {"votes": {"uplink": {"code": "majority-vote", "step": 0.01}}},
        rounds=1,
        **{"model.init": "zeros"},
    )["votes"]
    model = load_file(tmp_path / "run" / "votes" / "model.safetensors")
    moved = np.concatenate([array.ravel() for array in model.values()])
    assert np.abs(moved) == pytest.approx(np.full(SIZE, 0.01), rel=1e-6)  # float32
    assert {1, -1} == set(np.sign(moved))
    assert rounds[1]["channel_uses"] == SIZE


def test_energies_take_two_chips_an_entry_and_need_no_phase(tmp_path: Path) -> None:
    kind = {"uplink": {"kind": "non-coherent", "chips": 2}}
    runs = ran(
        tmp_path / "run",
        {"known": kind, "lost": kind | {"impairments.phase_error_deg": 120.0}},
        **{"channel.antennas": 2},
    )
    assert runs["known"][-1]["channel_uses"] == 2 * 4 * SIZE * 2
    assert {"aggregation_gain", "mean_gains"} <= runs["known"][1].keys()
    assert runs["known"][1]["aggregation_gain"] == runs["lost"][1]["aggregation_gain"]
    # A phase error turns the whole device, whose phase was random anyway: the same draws of phases, another sum.
    for record in (runs["known"][1], runs["lost"][1]):
        assert record["mse_measured"] < 10 * record["mse_predicted"]
    uplink = build_uplink(scenario({"uplink": kind["uplink"] | {"chip_fading": "chip"}}), 0)
    assert isinstance(uplink, NonCoherentUplink)
    assert (uplink.chips, uplink.fading) == (2, "chip")


def test_the_keys_of_imperfect_radios_reach_the_uplink() -> None:
    every = {key: value for keys in IMPAIRMENTS.values() for key, value in keys.items()}
    uplink = build_uplink(scenario(RAYLEIGH | {"impairments": every}), 0)
    assert isinstance(uplink, AnalogUplink)
    wrong = uplink.channel.impairments
    assert wrong.estimation is not None
    assert (wrong.estimation.pilots, wrong.estimation.estimator, wrong.frame_seconds) == (1, "least-squares", 1e-4)
    assert [type(rotation).__name__ for rotation in wrong.rotations] == ["PhaseError", "TimingError", "FrequencyOffset"]
    assert (uplink.channel.slots, uplink.channel.slot_seconds) == (3, 1e-3)
    assert wrong.interference is not None
    assert wrong.interference.mean_power == pytest.approx(10**0.6)
    assert uplink.amplifier is not None
    assert uplink.adc is not None


# What is written about them.


def test_every_key_of_an_airs_record_is_documented(tmp_path: Path) -> None:
    documented = (ROOT / "docs" / "record.md").read_text()
    out_of_reach = {"power_control": {"name": "minimum-power", "mse": 1e-9, "infeasible": "least-error"}}
    runs = ran(
        tmp_path / "run",
        {
            "analog": out_of_reach | {"impairments": {"pilots": 1, "availability": 0.5}},
            "energies": {"uplink.kind": "non-coherent"},
            "packets": {"uplink.kind": "digital", "impairments.pilots": 1},
        },
    )
    keys = {key for rounds in runs.values() for record in rounds for key in record}
    assert {"warnings", "pilot_uses", "not_asked", "aggregation_gain", "mean_gains"} <= keys
    for key in keys:
        assert f"`{key}`" in documented or f"`{key.removesuffix('_max')}_mean`, `…_max`" in documented, key


PAGE = (ROOT / "docs" / "radio.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: " ".join(text.split()[:5])[:40])
def test_every_example_of_the_page_about_the_air_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tomllib.loads(example)
    if {"carrier_ghz"} & keys.get("channel", {}).keys():
        pytest.importorskip("sionna")
    monkeypatch.chdir(tmp_path)
    for script in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(script, {})
    base = {key: value for key, value in AIR.items() if key != "uplink"} | {"name": "example", "rounds": 1}
    product.run(base | keys, out="run", report=False)
    assert math.isfinite(rounds_of(Path("run"))[-1]["test_loss"])


def test_the_page_about_the_air_names_every_key_of_its_tables() -> None:
    schema = Scenario.model_json_schema()
    for table in ("ImpairmentsSection", "PlanSection"):
        for key in schema["$defs"][table]["properties"]:
            assert f"`{key}`" in PAGE or re.search(rf"^{key} = ", PAGE, flags=re.MULTILINE), f"{table}.{key}"
    definitions = schema["$defs"]
    for table, key in (
        ("ChannelSection", "kind"),
        ("PowerControlSection", "name"),
        ("PowerControlSection", "combining"),
    ):
        for name in definitions[table]["properties"][key]["enum"]:
            assert f"`{name}`" in PAGE, f"{key} {name}"


EVERYTHING: dict[str, Any] = {
    "everything": {
        "power_control.combining": "zero-forcing",
        "channel": {"fading": "rayleigh", "subbands": 3, "antennas": 2},
        "plan": {"name": "power-law", "every": 1, "blocks": True},
        "training.warm_up": 2,
        "impairments": {key: value for keys in IMPAIRMENTS.values() for key, value in keys.items()}
        | {"adc_bits": 8, "availability": 0.7, "mean_outage": 2.0},
    },
    "energies": {"uplink": {"kind": "non-coherent", "chips": 2}, "channel.subbands": 2, "channel.antennas": 2},
    "votes": {"uplink": {"code": "majority-vote", "step": 0.002}, "impairments.availability": 0.7},
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_devices_in_place_and_devices_by_messages_come_to_the_same(name: str) -> None:
    """What the local engine and Flower's differ in, without Flower: `tests/end_to_end` runs the real one."""
    content = merge(AIR | RAYLEIGH, nest({"rounds": 3} | EVERYTHING[name]))
    (variant,) = Scenario.load(content).resolve()
    records: list[Rounds] = []
    for grid_of in (local_grid, message_grid):
        records.append([])
        workplace = build_workplace(variant.scenario, 0)
        learn(LearningTask(variant, 0, workplace, records[-1].append), grid_of(workplace))
    # float32 updates are added up before coding, or coded and then added up: rounding differs by some 1e-7.
    for here, there in zip(*records, strict=True):
        assert here.keys() == there.keys() - {"wire_down_bytes", "wire_up_bytes"}  # here nothing is sent
        for key in here.keys() - {*MEASURED, "mse_measured", "mse_predicted", "not_asked", "variant"}:
            if here[key] is not None and not isinstance(here[key], (bool, dict)):
                np.testing.assert_allclose(there[key], here[key], rtol=1e-5, atol=1e-8, err_msg=key)
        assert here.get("not_asked") == there.get("not_asked")
