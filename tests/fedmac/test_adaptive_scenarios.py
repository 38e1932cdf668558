"""Digital uplinks that adapt, by scenario: what runs, what repeats, and what is refused in which words."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import fedmac as product
from channel import Adaptation, DigitalUplink
from fedmac.build import build_uplink, rehearse
from fedmac.logs import quiet_flower
from fedmac.record import MEASURED
from fedmac.report.air_figures import silence_figure
from fedmac.report.folder import read_run
from fedmac.report.run_sections import air_sections
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError

SIZE = 650  # entries of a softmax model on 64 pixels

Rounds = list[dict[str, Any]]


def adapting(link: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A tiny scenario with this table of the link; a fine codec, so that there is something to make coarser."""
    return {
        "name": "adaptive",
        "rounds": 3,
        "data": {"source": "digits", "devices": 5, "samples_per_device": 40},
        "training": {"learning_rate": 0.5, "full_batch": True},
        "uplink": {"kind": "digital"},
        "codec": {"name": "dithered", "levels": 1000},
        "channel": {"fading": "gauss-markov", "correlation": 0.5, "snr_db": 10.0},
        "engine": {"workers": 1},
        "link": dict(link),
    } | more


FIT = {"packets": "fit", "deadline_s": 3e-3}
VARIANTS: list[dict[str, Any]] = [
    {"name": "fit", "link": FIT},
    {"name": "fed-back", "link": FIT, "codec": {"name": "top-k", "fraction": 0.5, "error_feedback": 1.0}},
    {"name": "least-error", "link": {"packets": "least-error", "mean_bits": 3.0}, "codec": {"packing": "entropy"}},
    {"name": "selected", "link": {"select": 2}},
    {"name": "outdated", "link": {"csi": "previous", "outer_loop": True}},
    {"name": "everything", "link": FIT | {"select": 3, "csi": "previous", "outer_loop": True, "fill": 0.9}},
]


def ran(out: Path, *, workers: int = 1, names: Sequence[str] = ()) -> dict[str, Rounds]:
    """The rounds of each variant; of those named, if any are."""
    product.run(adapting({}) | {"variants": VARIANTS}, out=out, workers=workers, only=names)
    return {str(v["name"]): rounds_of(out / str(v["name"])) for v in VARIANTS if not names or v["name"] in names}


def rounds_of(folder: Path) -> Rounds:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def repeatable(rounds: Rounds) -> Rounds:
    return [{key: value for key, value in record.items() if key not in MEASURED} for record in rounds]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one") / "run"


@pytest.fixture(scope="module")
def run(folder: Path) -> dict[str, Rounds]:
    return ran(folder)


# What runs.


def test_a_run_that_adapts_repeats_to_the_bit_on_any_number_of_workers(run: dict[str, Rounds], tmp_path: Path) -> None:
    """What the server has learnt, and what devices keep for error feedback, are the run's alone."""
    for name, rounds in ran(tmp_path / "run", workers=2, names=("fed-back", "least-error", "everything")).items():
        assert repeatable(rounds) == repeatable(run[name]), name


def test_packets_that_fit_are_all_there_by_the_deadline(run: dict[str, Rounds]) -> None:
    for name in ("fit", "fed-back"):
        sizes = set()
        for before, record in pairwise(run[name]):
            assert record["arrived"] == record["devices"], name
            assert record["air_time_s"] - before.get("air_time_s", 0.0) <= FIT["deadline_s"] * (1 + 1e-8)
            sizes |= set(record["packet_bits"])
        assert len(sizes) > 3, "as many sizes as channels"
        assert run[name][-1]["test_loss"] < run[name][0]["test_loss"], name


def test_a_budget_for_all_is_kept_and_charged_with_the_norms(run: dict[str, Rounds]) -> None:
    last = run["least-error"][-1]
    assert sum(last["packet_bits"]) <= 3.0 * SIZE * 5
    assert len(set(last["packet_bits"])) > 1
    total = sum(sum(record["packet_bits"]) + 64 * len(record["devices"]) for record in run["least-error"][1:])
    assert last["bits_per_device_mean"] == pytest.approx(total / 5)


def test_no_more_are_asked_than_may_send(run: dict[str, Rounds]) -> None:
    for record in run["selected"][1:]:
        assert len(record["devices"]) == 2
        assert {one["reason"] for one in record["not_asked"]} == {"not asked: others are worth more per joule"}
        assert record["failures"] == []
    assert len({device for record in run["selected"][1:] for device in record["devices"]}) > 2


def test_the_report_says_how_many_a_selection_asks_and_that_the_others_have_not_failed(
    run: dict[str, Rounds], folder: Path
) -> None:
    read = read_run(folder)
    said = html.unescape("".join(air_sections(read)))
    for sentence in ("link.select = 2 the server asks at most 2 devices", "link.select = 3 the server asks at most 3"):
        assert sentence in said
    assert "most benefit per joule: selected." in said
    assert "most benefit per joule: everything." in said
    assert "not asked: others are worth more per joule" in said
    figure = silence_figure(read.rounds)
    assert [trace.line.dash for trace in figure.data if trace.name == "selected"] == ["dash"]


def test_offsets_are_in_the_record_of_an_outer_loop_and_no_other(run: dict[str, Rounds]) -> None:
    for name, rounds in run.items():
        for record in rounds[1:]:
            assert ("offsets_db" in record) == (name in ("outdated", "everything")), name
    assert any(offset > 0 for offset in run["outdated"][-1]["offsets_db"]), "nothing was lost: a test of nothing"


def test_a_run_in_which_no_packet_is_ever_short_enough_ends_with_the_initial_model_and_says_why(tmp_path: Path) -> None:
    product.run(adapting({"packets": "fit", "deadline_s": 1e-6}), out=tmp_path / "run")
    rounds = rounds_of(tmp_path / "run")
    assert len(rounds) == 4
    assert {record["test_loss"] for record in rounds} == {rounds[0]["test_loss"]}
    assert [len(record["not_asked"]) for record in rounds[1:]] == [5, 5, 5]
    assert "no packet of dithered is as short as" in rounds[-1]["not_asked"][0]["reason"]
    assert rounds[-1]["channel_uses"] == 0


def test_every_key_of_an_adaptive_record_is_documented(run: dict[str, Rounds]) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "record.md").read_text()
    for record in run["everything"][1:]:
        for key in record:
            assert f"`{key}`" in documented or f"`{key.removesuffix('_max')}_mean`, `…_max`" in documented, key


def test_the_keys_of_the_link_reach_the_uplink() -> None:
    link = {"packets": "least-error", "mean_bits": 2.5, "fill": 0.8, "select": 3, "csi": "previous", "outer_loop": True}
    uplink = build_uplink(Scenario.load(adapting(link | {"deadline_s": 1.0})), seed=0)
    assert isinstance(uplink, DigitalUplink)
    assert uplink.adaptation == Adaptation("least-error", 2.5, 0.8, 3, "previous", True)
    plain = build_uplink(Scenario.load(adapting({})), seed=0)
    assert isinstance(plain, DigitalUplink)
    assert plain.adaptation == Adaptation()


# What is refused, with the whole message.

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"packets": "fit"},
        {},
        'link.deadline_s: missing, but packets = "fit" needs it; accepted: a number > 0 (packets that come later are '
        "lost (default: none are))",
    ),
    (
        {"packets": "small"},
        {},
        'link.packets = \'small\': accepted: "as-coded", "fit", "least-error"',
    ),
    (
        {"mean_bits": 2.0},
        {},
        'link.mean_bits = 2.0: has no meaning with packets = "as-coded"; accepted: packets = "least-error"',
    ),
    (
        FIT | {"mean_bits": 2.0},
        {},
        'link.mean_bits = 2.0: has no meaning with packets = "fit"; accepted: packets = "least-error"',
    ),
    (
        {"packets": "least-error"},
        {},
        'link.mean_bits: missing, but packets = "least-error" needs it; accepted: a number > 0 (of least-error: the '
        "budget, bits an entry and device)",
    ),
    (
        {"packets": "least-error", "mean_bits": 0.0},
        {},
        "link.mean_bits = 0.0: accepted: a number > 0 (of least-error: the budget, bits an entry and device)",
    ),
    (
        {"packets": "least-error", "mean_bits": math.inf},
        {},
        "link.mean_bits = inf: accepted: a finite number > 0 (of least-error: the budget, bits an entry and device)",
    ),
    (
        {"select": 0},
        {},
        "link.select = 0: accepted: an integer >= 1 (devices that may send, by benefit per joule (default: all))",
    ),
    ({"csi": "next"}, {}, 'link.csi = \'next\': accepted: "current", "previous"'),
    (
        {"fill": 0.5},
        {},
        "link.fill = 0.5: leaves a part of what fits by the deadline to retransmissions; accepted: deadline_s with "
        'packets = "fit" or "least-error"',
    ),
    (
        FIT | {"fill": 0.0},
        {},
        "link.fill = 0.0: accepted: a number > 0 and <= 1 (part of what fits by the deadline that packets may take)",
    ),
    (
        {"name": "fixed-rate", "bits_per_use": 1.0, "outer_loop": True},
        {},
        'link.outer_loop = true: name = "fixed-rate" has one rate for all; accepted: outer_loop left out',
    ),
    (
        {"name": "mcs", "mcs": 5, "outer_loop": True},
        {},
        "link.outer_loop = true: mcs = 5 is one rate for all; accepted: outer_loop left out",
    ),
    (
        FIT,
        {"channel": {"noise_power": 0.0}},
        "link.packets = 'fit': channel.noise_power is 0, and any packet fits without noise; accepted: \"as-coded\", "
        '"least-error", or a noise_power > 0',
    ),
]


@pytest.mark.parametrize(("link", "more", "message"), REFUSED, ids=lambda x: str(x)[:50])
def test_a_bad_adaptation_is_refused_with_key_value_and_what_is_accepted(
    link: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScenarioError) as refused, quiet_flower():
        rehearse(Scenario.load(adapting(link, **more)))
    assert str(refused.value) == message


# Variants.


def link_of(base: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """What a variant's table of the link says beside the defaults."""
    (only,) = Scenario.load(adapting(base, variants=[{"name": "v", "link": dict(variant)}])).resolve()
    return only.scenario.link.model_dump(exclude_defaults=True, exclude_none=True)


def test_another_link_adapts_as_the_one_before() -> None:
    base = FIT | {"fill": 0.5, "select": 2, "csi": "previous", "outer_loop": True}
    assert link_of(base, {"name": "mcs"}) == base | {"name": "mcs"}


def test_another_adaptation_lets_go_of_what_was_of_the_old_one() -> None:
    budget = {"packets": "least-error", "mean_bits": 2.0, "deadline_s": 1.0, "fill": 0.5}
    assert link_of(budget, {"packets": "fit"}) == {"packets": "fit", "deadline_s": 1.0, "fill": 0.5}
    assert link_of(budget, {"packets": "as-coded"}) == {"deadline_s": 1.0}
    assert link_of({"outer_loop": True}, {"name": "fixed-rate", "bits_per_use": 1.0}) == {
        "name": "fixed-rate",
        "bits_per_use": 1.0,
    }
