"""Airs that cannot be are refused before work starts, by the key as its user wrote it; and how airs are merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

import fedmac as product
from channel.trace import write_trace
from fedmac.air_refusals import AirError
from fedmac.build import rehearse
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from tests.fedmac.test_air_scenarios import AIR, CELL, RAYLEIGH, needs_sionna, put, refusal, rounds_of

UMI = {"channel": {"kind": "umi", **CELL}}
LEFT_OUT = "has no meaning with"

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"channel.kind": "umii"},
        'channel.kind = \'umii\': did you mean umi? accepted: "textbook", "umi", "uma", "rma", "inh", "inf", "trace"',
    ),
    (
        {"channel": {"kind": "umi"}},
        'channel.carrier_ghz: missing, but kind = "umi" needs it; accepted: a number > 0 (carrier frequency, of cells, '
        "free-space, tdl and cdl)",
    ),
    (
        {"channel": {"kind": "umi", "carrier_ghz": 3.5}},
        'channel.tx_power_dbm: missing, but channel.kind = "umi" needs a power limit in watts; accepted: a number of '
        "dBm, or power_control.power",
    ),
    (
        UMI | {"channel.units": "normalised"},
        'channel.units = \'normalised\': kind = "umi" is in watts and metres; accepted: "physical"',
    ),
    (
        UMI | {"channel.fading": "rayleigh"},
        'channel.fading = \'rayleigh\': kind = "umi" has its own; accepted: kind = "textbook", or fading left out',
    ),
    (
        {"channel.speed_kmh": 3.0},
        'channel.speed_kmh = 3.0: nothing here depends on it; accepted: kind = "umi", "uma", "rma", "inh" or '
        '"inf", or fading = "tdl" or "cdl"',
    ),
    (
        {"channel.fading": "tdl"},
        'channel.profile: missing, but fading = "tdl" needs it; accepted: "A", "B", "C", "D", "E"',
    ),
    ({"channel.trace": "a.csv"}, f'channel.trace = \'a.csv\': {LEFT_OUT} kind = "textbook"; accepted: kind = "trace"'),
    (
        {"channel": {"kind": "trace", "trace": "none.csv"}},
        "channel.trace = 'none.csv': No such file or directory, beside the scenario or where it is run; accepted: a "
        "CSV or NPZ file of gains",
    ),
    (
        {"channel.snr_db": 4000.0},
        "channel.snr_db = 4000.0: accepted: a number >= -300 and <= 300 (a device's power limit over the noise power, "
        "before fading; sets the limit (normalised units))",
    ),
    (
        RAYLEIGH | {"channel.subbands": 200},
        "channel.subbands = 200: 200 resource blocks for an exchange of 81 complex channel uses; accepted: at most 81 "
        "in all",
    ),
    (
        {"power_control.combining": "mrc"},
        "power_control.combining = 'mrc': channel.antennas = 1: there is nothing to combine; accepted: "
        'channel.antennas > 1, or "largest-set"',
    ),
    (
        {"power_control.name": "minimum-power"},
        'power_control.mse: missing, but name = "minimum-power" needs it; accepted: a number > 0 and < 1 (of '
        "minimum-power: error that is good enough, over that of silence)",
    ),
    (
        {"power_control.mse": 0.1},
        f'power_control.mse = 0.1: {LEFT_OUT} name = "minimum-mse"; accepted: name = "minimum-power"',
    ),
    (
        {"impairments": {"pilots": 2, "frame_s": 5e-6}},
        "impairments.pilots = 2: 4 devices in 1 subband(s) send 8 pilots, but a frame of frame_s = 5e-06 holds 5 "
        "complex channel uses, and not only pilots; accepted: 1 to 1, or a longer frame_s",
    ),
    (
        {"impairments": {"pilots": 1, "frame_s": 4e-6}},
        "impairments.pilots = 1: 4 devices in 1 subband(s) send 4 pilots, but a frame of frame_s = 4e-06 holds 4 "
        "complex channel uses, and not only pilots; accepted: a longer frame_s",
    ),
    (
        {"impairments.frame_s": 1.0},
        "impairments.frame_s = 1.0: has no meaning without pilots; accepted: pilots with it",
    ),
    (
        {"impairments.adc_bits": 0},
        "impairments.adc_bits = 0: accepted: an integer >= 1 and <= 16 (of the receiver's converters)",
    ),
    (
        {"impairments": {"availability": 0.1, "mean_outage": 2.0}},
        "impairments.mean_outage = 2.0: shorter than any outages that leave availability = 0.1; accepted: a number "
        ">= 9",
    ),
    (
        {"plan.name": "power-law", "uplink": {"code": "uncoded"}},
        "plan.name = 'power-law': spreads the channel uses of a code with a ratio or uses; accepted: \"constant\", or "
        'uplink.code = "random-linear", "random-mask", "sparse-amp"',
    ),
    (
        {"plan": {"name": "power-law", "min_uses": 200}},
        "plan.min_uses = 200: the budget is uplink.ratio or uses in every round, 162 channel uses; accepted: an "
        "integer from 1 to 162",
    ),
    (
        {"plan": {"name": "power-law", "max_uses": 1000}},
        "plan.max_uses = 1000: more than updates have entries; accepted: an integer from 1 to 650",
    ),
    (
        {"plan": {"name": "pilot", "pilot": "none.json"}},
        "plan.pilot = 'none.json': No such file or directory; accepted: a JSON file of {mean_norms, largest_energies}, "
        "each of 2 numbers",
    ),
    (
        {"plan.blocks": True, "uplink": {"code": "random-mask", "ratio": 0.1}},
        "plan.blocks = true: shares out the channel uses of unbiased random linear codes; accepted: false, or "
        'uplink.code = "random-linear" with decoder = "unbiased"',
    ),
    (
        {"plan.blocks": True, "uplink": {"code": "random-linear", "uses": 1}},
        "plan.blocks = true: a round has 1 channel uses for the model's 2 arrays; accepted: false, or more by "
        "uplink.ratio or uses",
    ),
    (
        {"plan": {"name": "power-law", "blocks": True, "max_uses": 1, "min_uses": 1}},
        "plan.min_uses = 1: less than one for each of the model's 2 arrays, which blocks = true needs; accepted: an "
        "integer from 2",
    ),
    (
        {"uplink": {"code": "majority-vote"}},
        'uplink.step: missing, but code = "majority-vote" needs it; accepted: a number > 0 (of majority-vote: by how '
        "much each entry moves in a round)",
    ),
    (
        {"uplink": {"kind": "non-coherent", "ratio": 0.1}},
        'uplink.ratio = 0.1: is of codes; kind = "non-coherent" sends energies of chips; accepted: ratio left out',
    ),
    (
        {"uplink.chips": 2},
        f'uplink.chips = 2: {LEFT_OUT} kind = "over-the-air"; accepted: kind = "non-coherent"',
    ),
    (
        {"strategy.name": "dingo", "training": {}, "uplink": {"kind": "non-coherent"}},
        "uplink.kind = 'non-coherent': the error of energies is not to be heard, and strategy.name = \"dingo\" goes by "
        'it; accepted: "ideal", "over-the-air"',
    ),
    (
        {"strategy": {"name": "dingo", "coded_exchanges": True}, "training": {}}
        | {"uplink": {"code": "majority-vote", "step": 0.1}},
        "uplink.code = 'majority-vote': steps of one size, but strategy.name = \"dingo\" sends vectors that are no "
        'updates; accepted: "uncoded"',
    ),
    (
        {"training.warm_up": -1},
        "training.warm_up = -1: accepted: an integer >= 0 (rounds over which the learning rate rises to its value, in "
        "equal steps)",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda x: str(x)[:50])
def test_an_air_that_cannot_be_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    assert refusal(changes) == message


@needs_sionna
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel.carrier_ghz": 200.0}, "channel.carrier_ghz = 200.0: accepted: 0.5 to 100"),
        ({"channel.speed_kmh": 2000.0}, "channel.speed_kmh = 2000.0: accepted: 0 to 1000"),
        ({"channel.minimum_distance_m": 1.0}, "channel.minimum_distance_m = 1.0: accepted: 10 to 5000"),
        (
            {"channel.cell_radius_m": 5.0},
            "channel.cell_radius_m = 5.0, which reaches 5 m; accepted for umi: more than minimum_distance_m = 10.0, up "
            "to 5000 m",
        ),
        (
            {"channel.variant": "mixed"},
            'channel.variant = \'mixed\': has no meaning with kind = "umi"; accepted: kind = "inh" or kind = "inf"',
        ),
        (
            {"channel.kind": "inf", "channel.variant": "mixed"},
            "channel.variant = 'mixed': none of kind = \"inf\"; accepted: SH, DH, SL, DL",
        ),
        (
            {"channel.hall_m": [1.0, 2.0, 3.0]},
            'channel.hall_m = [1.0, 2.0, 3.0]: has no meaning with kind = "umi"; accepted: kind = "inh" or kind = '
            '"inf"',
        ),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_the_standard_has_not_is_refused_in_the_scenarios_words(changes: dict[str, Any], message: str) -> None:
    assert refusal(UMI | changes) == message


@pytest.mark.parametrize(
    ("channel", "key"),
    [
        ({"kind": "umi", **CELL}, 'channel.kind = "umi"'),
        ({"fading": "tdl", "profile": "A", "carrier_ghz": 3.5}, 'channel.fading = "tdl"'),
    ],
    ids=["cell", "delay line"],
)
def test_a_missing_extra_is_named_before_work_starts(
    monkeypatch: pytest.MonkeyPatch, channel: dict[str, Any], key: str
) -> None:
    monkeypatch.setattr("channel.three_gpp.seeding.find_spec", lambda _: None)
    assert refusal({"channel": channel}).startswith(
        f"{key}: 3GPP channels need Sionna: pip install 'fedmac[3gpp]'; accepted: "
    )


# Traces.

GAINS = np.array([[1.0, 0.5j, 2.0, 1.0 + 1.0j], [0.5, 0.5, 1.0, -1.0]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("round,device,real,imag\n1,0,nan,0\n", "line 2: real is 'nan'; accepted: a number"),
        ("round,device,real,imag\n1,0,0,0\n", "line 2: gain is 0; accepted: real and imag that are not both 0"),
        ("round,device,re,im\n1,0,1,0\n", "missing: real, imag"),
    ],
    ids=["nan", "zero", "columns"],
)
def test_a_trace_that_cannot_be_names_its_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gains.csv"
    path.write_text(text)
    message = refusal({"channel": {"kind": "trace", "trace": str(path)}})
    assert message.startswith(f"channel.trace = {str(path)!r}")
    assert message.count(str(path)) == 1
    assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 3}, "the trace has 2 rounds; accepted: 3 or more, as the run has"),
        ({"data.devices": 5}, "the trace has 4 devices; accepted: 5 or more, as the run has"),
        ({"channel.antennas": 2}, "channel.antennas = 2: accepted: 1, as the trace"),
    ],
    ids=["rounds", "devices", "antennas"],
)
def test_a_trace_that_is_not_enough_is_refused_before_work_starts(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_trace(tmp_path / "gains.npz", GAINS)
    assert words in refusal({"channel": {"kind": "trace", "trace": str(tmp_path / "gains.npz")}} | changes)


def test_a_trace_that_ends_in_a_round_of_several_exchanges_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    write_trace(tmp_path / "gains.npz", GAINS)
    several = {"strategy.name": "dingo", "training": {}, "uplink": {}, "channel.noise_power": 1e-8}
    trace = {"channel": {"kind": "trace", "trace": str(tmp_path / "gains.npz")}}
    with pytest.raises(
        AirError, match=r"^channel\.trace = .*the trace has 2 rounds; accepted: 3 .*several exchanges a"
    ):
        product.run(put(AIR, trace | several), out=tmp_path / "run", report=False)


def test_files_are_looked_for_beside_the_scenario_and_the_run_folder_knows_them_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / "data").mkdir(parents=True)
    elsewhere.mkdir()
    write_trace(home / "data" / "gains.csv", GAINS)
    (home / "pilot.json").write_text(json.dumps({"mean_norms": [2.0, 1.0], "largest_energies": [1.0, 1.0]}))
    content = put(AIR, {"channel": {"kind": "trace", "trace": "data/gains.csv"}}) | {
        "variants": [{"name": "even"}, {"name": "planned", "plan": {"name": "pilot", "pilot": "pilot.json"}}]
    }
    (home / "air.toml").write_text(tomli_w.dumps(content))
    monkeypatch.chdir(elsewhere)
    product.run("../home/air.toml", out="run", report=False)
    again = Scenario.load("run/planned/scenario.toml")
    monkeypatch.chdir(tmp_path)
    rehearse(again)
    product.run(again, out="again", report=False)
    for here, there in zip(rounds_of(Path("again")), rounds_of(elsewhere / "run" / "planned"), strict=True):
        assert (here["test_loss"], here.get("gains")) == (there["test_loss"], there.get("gains"))
    monkeypatch.chdir(home)
    for said in (content, home / "air.toml"):  # in a dict, and set from outside, names are those of where one works
        chosen = Scenario.load(said, {"channel.trace": "data/gains.csv"})
        assert chosen.channel.trace == str(home / "data" / "gains.csv")


# Merging.


def resolved(base: dict[str, Any], variant: dict[str, Any], **overrides: Any) -> Scenario:
    """The one variant of a scenario, called v."""
    content = AIR | base | {"variants": [{"name": "v", **variant}]}
    (only,) = Scenario.load(content, overrides).resolve()
    return only.scenario


ROUND_CELL = {
    "channel": {"kind": "umi", **CELL, "speed_kmh": 3.0, "interval_s": 0.5, "indoor": 0.5, "noise_figure_db": 7.0}
    | {"cell_radius_m": 100.0, "minimum_distance_m": 20.0, "subbands": 4, "antennas": 2, "bandwidth_mhz": 5.0}
}
SHARED = {"subbands": 4, "antennas": 2, "bandwidth_mhz": 5.0}
HALL = {"channel": {"kind": "inh", **CELL, "hall_m": [50.0, 20.0, 3.0], "speed_kmh": 3.0} | SHARED}
LINE = {
    "channel": {"fading": "tdl", "profile": "A", "delay_spread_ns": 30.0, "carrier_ghz": 3.5, "speed_kmh": 3.0}
    | {"snr_db": 10.0}
    | SHARED
}
FAR = {
    "channel": {"path_loss": "free-space", "carrier_ghz": 3.5, "cell_radius_m": 50.0, "minimum_distance_m": 2.0}
    | {"units": "physical", "noise_figure_db": 3.0, "tx_power_dbm": 20.0}
    | SHARED
}
RICIAN = {"channel": {"fading": "rician", "k_factor_db": 6.0, "snr_db": 10.0} | SHARED}
BASES = {"umi": ROUND_CELL, "inh": HALL, "tdl": LINE, "free space": FAR, "rician": RICIAN}
VARIANTS: dict[str, dict[str, Any]] = {
    "uma": {"kind": "uma", **CELL},
    "inf": {"kind": "inf", **CELL},
    "trace": {"kind": "trace", "trace": "gains.csv"},
    "textbook": {"kind": "textbook", "fading": "rayleigh"},
    "plain": {"fading": "none", "path_loss": "none", "kind": "textbook"},
    "cdl": {"kind": "textbook", "fading": "cdl", "profile": "B", "carrier_ghz": 2.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("base", BASES)
def test_a_variant_may_choose_any_other_channel(base: str, variant: str) -> None:
    chosen = resolved(BASES[base], {"channel": VARIANTS[variant]})
    content = chosen.channel.model_dump()
    assert {key: content[key] for key in VARIANTS[variant]} == VARIANTS[variant]
    assert {key: content[key] for key in SHARED} == SHARED


def test_another_cell_keeps_what_cells_share_and_another_kind_lets_go_of_it() -> None:
    uma = resolved(ROUND_CELL, {"channel": {"kind": "uma"}}).channel
    assert (uma.carrier_ghz, uma.tx_power_dbm, uma.speed_kmh, uma.indoor) == (3.5, 23.0, 3.0, 0.5)
    assert (uma.cell_radius_m, uma.noise_figure_db) == (100.0, 7.0)
    hall = resolved(ROUND_CELL, {"channel": {"kind": "inf"}}).channel
    assert (hall.carrier_ghz, hall.speed_kmh, hall.cell_radius_m, hall.indoor) == (3.5, 3.0, None, 0.0)
    plain = resolved(ROUND_CELL, {"channel": {"kind": "textbook"}}).channel
    assert (plain.carrier_ghz, plain.tx_power_dbm, plain.speed_kmh, plain.units) == (None, None, 0.0, "normalised")
    slow = resolved(LINE, {"channel": {"fading": "rayleigh"}}).channel
    assert (slow.carrier_ghz, slow.profile, slow.speed_kmh, slow.snr_db) == (None, None, 0.0, 10.0)


def test_one_way_to_say_the_band_takes_the_place_of_the_other() -> None:
    grid = {"channel": {"prbs": 25, "subcarrier_khz": 30, "fading": "rayleigh", "snr_db": 5.0}}
    plain = resolved(grid, {"channel": {"bandwidth_mhz": 5.0}}).channel
    assert (plain.prbs, plain.subcarrier_khz, plain.bandwidth_mhz, plain.snr_db) == (None, None, 5.0, 5.0)
    again = resolved({"channel": {"bandwidth_mhz": 5.0}}, grid).channel
    assert (again.prbs, again.bandwidth_mhz) == (25, None)
    outside = resolved({}, {"channel": {"prbs": 25}}, **{"channel.bandwidth_mhz": 2.0}).channel
    assert (outside.prbs, outside.bandwidth_mhz) == (None, 2.0)


def test_an_impairment_that_is_switched_off_takes_its_keys_with_it() -> None:
    base = {
        "impairments": {"timing_error_ns": 10.0, "cyclic_prefix_ns": 500.0, "frequency_offset_hz": 5.0, "slots": 3}
        | {"availability": 0.5, "mean_outage": 4.0, "phase_error_deg": 5.0}
    }
    off = {"timing_error_ns": 0.0, "frequency_offset_hz": 0.0, "availability": 1.0}
    chosen = resolved(base, {"impairments": off}).impairments
    assert (chosen.cyclic_prefix_ns, chosen.slots, chosen.mean_outage, chosen.phase_error_deg) == (
        None,
        None,
        None,
        5.0,
    )
    kept = resolved(base, {"impairments": {"availability": 0.8}}).impairments
    assert kept.mean_outage == 4.0


def test_a_channel_set_from_outside_takes_the_place_of_the_variants_own() -> None:
    chosen = resolved({}, {"channel": {"fading": "rayleigh"}}, **{f"channel.{k}": v for k, v in UMI["channel"].items()})
    assert (chosen.channel.kind, chosen.channel.fading) == ("umi", "none")


def test_what_a_part_of_the_channel_refuses_is_a_scenario_error_with_its_variant() -> None:
    content = AIR | {"variants": [{"name": "a", "channel": {"kind": "trace", "trace": "none.csv"}}]}
    with pytest.raises(ScenarioError, match=r'^variant "a": channel\.trace = .none\.csv.: No such file'):
        rehearse(Scenario.load(content))
