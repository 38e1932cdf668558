"""Attackers, bounds on norms and privacy in scenarios: what is refused, and what runs end up with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fedmac
from channel.privacy import epsilon_of, needed_noise_multiplier
from channel.uplinks import AnalogUplink
from fedmac import Scenario, ScenarioError
from fedmac.build import build_uplink, rehearse
from fedmac.build_defences import build_attack
from tests.fedmac.small_scenario import small

BOUNDED = {"training.clip_norm": 0.1, "power_control.norms": "bound"}
PRIVATE = BOUNDED | {"privacy.delta": 1e-5}
DIGITAL = {"uplink": {"kind": "digital"}, "power_control": {"power": 10.0}, "codec.name": "eden"}


def load(changes: Mapping[str, Any], **top: Any) -> Scenario:
    return Scenario.load(small(changes, **top))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"attackers.count": 5}, r"attackers\.count = 5: data\.devices = 4 are fewer; accepted: an integer from 0 to 4"),
    ({"attackers.count": -1}, r"attackers\.count = -1: accepted: an integer >= 0"),
    ({"attackers.devices": [4]}, r"attackers\.devices = \[4\]: data\.devices = 4; accepted: numbers from 0 to 3"),
    ({"attackers.devices": [1, 1]}, r"attackers\.devices = \[1, 1\]: a number stands there twice"),
    ({"attackers": {"devices": [1], "count": 1}}, r"attackers\.devices = \[1\]: count = 1 is given too"),
    ({"attackers": {"kind": "gaussian"}}, r"attackers\.count: missing, but kind is given; accepted: how many"),
    ({"attackers": {"count": 1, "kind": "bribe"}}, r"attackers\.kind = 'bribe': .*sign-flip"),
    ({"attackers": {"count": 1, "kind": "scaled-update"}}, r"attackers\.factor: missing.*accepted: a number > 0"),
    ({"attackers": {"count": 1, "factor": 0.0}}, r"attackers\.factor = 0\.0: accepted: a number > 0"),
    (
        {"attackers": {"count": 1, "power": "limit"}, "uplink": {"kind": "ideal"}},
        r'attackers\.power = .limit.: uplink\.kind = "ideal" grants no amplitudes',
    ),
    (
        {"attackers": {"count": 1, "kind": "label-flip"}, "training.loss": "reconstruction"},
        r"attackers\.kind = 'label-flip': training\.loss = \"reconstruction\" has no labels",
    ),
    (
        {"attackers.count": 1, "strategy.name": "giant", "uplink": {"kind": "ideal"}},
        r'attackers\.kind = .*strategy\.name = "giant" sends vectors that are no updates',
    ),
    ({"training.clip_norm": 0.0}, r"training\.clip_norm = 0\.0: accepted: a number > 0"),
    ({"power_control.norms": "bound"}, r"training\.clip_norm: missing, but power_control\.norms = \"bound\" takes it"),
    (
        BOUNDED | {"uplink": {"code": "majority-vote", "step": 0.1}},
        r'power_control\.norms = .bound.: uplink\.code = "majority-vote": what is sent is not of the norm of an update',
    ),
    (
        BOUNDED | {"uplink": {"decoder": "projection", "error_feedback": True}},
        r"power_control\.norms = 'bound': uplink\.error_feedback = true",
    ),
    ({"privacy.epsilon": 1.0}, r"privacy\.delta: missing, but epsilon = 1\.0 needs it; accepted: a number > 0 and < 1"),
    (PRIVATE | {"privacy.delta": 0.0}, r"privacy\.delta = 0\.0: accepted: a number > 0 and < 1"),
    (PRIVATE | {"privacy.delta": 1.0}, r"privacy\.delta = 1\.0: accepted: a number > 0 and < 1"),
    (PRIVATE | {"privacy.epsilon": 0.0}, r"privacy\.epsilon = 0\.0: accepted: a number > 0"),
    ({"privacy.delta": 1e-5}, r"training\.clip_norm: missing, but privacy\.delta = 1e-05 needs it"),
    (
        {"privacy.delta": 1e-5, "training.clip_norm": 0.1},
        r"power_control\.norms = 'said': privacy\.delta = 1e-05 needs powers that depend on no.*accepted: \"bound\"",
    ),
    (PRIVATE | DIGITAL, r'privacy\.delta = 1e-05: uplink\.kind = "digital" delivers each device\'s packet as it is'),
    (PRIVATE | {"uplink": {"kind": "ideal"}}, r'uplink\.kind = "ideal" has no noise'),
    (PRIVATE | {"uplink": {"kind": "non-coherent"}}, r'uplink\.kind = "non-coherent" adds up energies'),
    (PRIVATE | {"channel.noise_power": 0.0}, r"channel\.noise_power = 0\.0: .*nothing hides a device"),
    (PRIVATE | {"plan.name": "power-law"}, r"plan\.name = 'power-law': .*accepted: \"constant\""),
    (PRIVATE | {"impairments.adc_bits": 4}, r"impairments\.adc_bits = 4: .*accepted: left out"),
    (
        PRIVATE | {"privacy.epsilon": 1.0, "channel.antennas": 2},
        r"channel\.antennas = 2: privacy\.delta = 1e-05 with epsilon is not accounted for with it; accepted: 1",
    ),
    (
        DIGITAL | {"strategy": {"name": "krum", "num_malicious_nodes": 1}},
        r"strategy\.num_malicious_nodes = 1: krum needs at least 2 f \+ 3 = 5 devices.* and 4 train",
    ),
    (
        DIGITAL | {"strategy": {"name": "fedtrimmedavg", "beta": 0.2}},
        r"strategy\.beta = 0\.2: int\(beta n\) = 0 values of the 4 devices' are trimmed",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), REFUSED, ids=[says[:50] for _, says in REFUSED])
def test_what_gives_no_protection_or_has_no_meaning_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        load(changes)


def test_clipping_and_attackers_have_no_meaning_for_factors_of_a_gradient() -> None:
    factors = {
        "uplink": {"kind": "digital"}, "power_control": {"power": 10.0}, "codec.name": "factor",
        "training": {"full_batch": False, "local_batches": 1},
    }  # fmt: skip
    load(factors)
    with pytest.raises(ScenarioError, match=r"training\.clip_norm = 0\.1: .*sends the factors"):
        load(factors | {"training": {"full_batch": False, "local_batches": 1, "clip_norm": 0.1}})
    with pytest.raises(ScenarioError, match=r"attackers\.kind = .*sends factors of a gradient"):
        load(factors | {"attackers.count": 1})


def test_variants_let_go_of_what_their_attackers_have_no_use_for() -> None:
    scenario = load(
        {"attackers": {"count": 1, "kind": "scaled-update", "factor": 9.0}},
        variants=[{"name": "listed", "attackers": {"devices": [0, 2], "kind": "sign-flip"}}],
    )
    (variant,) = scenario.resolve()
    assert variant.scenario.attackers.count == 0
    assert variant.scenario.attackers.factor is None


def test_attackers_are_those_of_the_seed_or_of_the_list() -> None:
    drawn = [build_attack(load({"attackers.count": 2}), seed) for seed in range(6)]
    assert all(attack is not None and len(attack.devices) == 2 for attack in drawn)
    assert len({attack.devices for attack in drawn if attack is not None}) > 1
    listed = build_attack(load({"attackers.devices": [0, 3]}), 5)
    assert listed is not None
    assert listed.devices == frozenset([0, 3])
    assert build_attack(load({}), 0) is None


def test_the_bound_holds_on_the_air_wherever_norms_are_those_of_updates() -> None:
    codes: dict[str, tuple[dict[str, Any], bool]] = {
        "linear": ({}, True),
        "votes": ({"uplink": {"code": "majority-vote", "step": 0.1}}, False),
        "feedback": ({"uplink": {"decoder": "projection", "error_feedback": True}}, False),
    }
    for changes, bounded in codes.values():
        uplink = build_uplink(load({"training.clip_norm": 0.1} | changes), 0)
        assert isinstance(uplink, AnalogUplink)
        assert (uplink.norm_bound is not None) == bounded


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_epsilon_is_recorded_for_every_round_and_the_run(tmp_path: Path) -> None:
    run = fedmac.run(small(PRIVATE), out=tmp_path / "private")
    records = rounds(tmp_path / "private")[1:]
    assert len(records) == 3
    told = 0.0
    for record in records:
        leak = 1 / record["privacy_noise_multiplier"]
        assert record["privacy_epsilon_round"] == pytest.approx(epsilon_of(leak, 1e-5))
        assert record["privacy_epsilon"] >= told
        told = record["privacy_epsilon"]
    assert run.summary["variants"][0]["privacy_epsilon"] == told


def test_a_target_is_met_by_noise_that_devices_add_within_their_energy(tmp_path: Path) -> None:
    fedmac.run(small(PRIVATE | {"privacy.epsilon": 4.0}), out=tmp_path / "target")
    records = rounds(tmp_path / "target")[1:]
    multiplier = needed_noise_multiplier(4.0, 1e-5, 3)
    for record in records:
        assert record["privacy_noise_multiplier"] >= multiplier * (1 - 1e-9)
        assert record["added_noise"] > 0
        assert max(record["energies"]) <= 50.0 * (1 + 1e-9)
    # Under Rayleigh fading another device may be the loudest in each round: none is told of in full.
    assert 0 < records[-1]["privacy_epsilon"] <= 4.0


def test_without_the_library_a_scenario_with_privacy_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(
        ScenarioError, match=r"privacy\.delta = 1e-05: .*dp-accounting.*pip install 'fedmac\[privacy\]'"
    ):
        rehearse(load(PRIVATE))


@pytest.mark.parametrize("strategy", ["krum", "multikrum", "fedtrimmedavg", "fedmedian"])
def test_robust_strategies_learn_beside_attackers_that_spoil_the_mean(tmp_path: Path, strategy: str) -> None:
    own = {
        "krum": {"num_malicious_nodes": 1},
        "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
        "fedtrimmedavg": {"beta": 0.2},
        "fedmedian": {},
    }[strategy]
    attacked = DIGITAL | {
        "data.devices": 6, "codec.bits": 4, "rounds": 4, "attackers": {"count": 1, "factor": 20.0},
        "evaluation.every": 4,
    }  # fmt: skip
    accuracies = {}
    for name, parameters in ((strategy, own), ("fedavg", {})):
        run = fedmac.run(small(attacked | {"strategy": {"name": name} | parameters}), out=tmp_path / name)
        accuracies[name] = run.summary["variants"][0]["test_accuracy"]
    # A tenth is guessing; four rounds of one full-batch step get no further than this, Krum on one device's rows.
    assert accuracies[strategy] > 0.45
    assert accuracies["fedavg"] < 0.3
