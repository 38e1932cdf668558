"""The axis `samples` of a comparison: training examples visited, as devices count them, or refused where unknown."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import clients.training
from clients.data import DataUnavailable
from fedmac.build_devices import build_data
from fedmac.runs import run
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import merge, nest
from fedmac.studies.compare import samples
from fedmac.studies.compare.comparison import Comparison, compare
from fedmac.studies.compare.samples import visited_examples
from fedmac.studies.sweep.folder import read_sweep
from tests.fedmac.command_line import Command
from tests.fedmac.recorded_runs import write_rounds, write_sweep

ROWS = 1438
"""Training rows of the digits."""

SMALL: dict[str, Any] = {
    "name": "visits",
    "rounds": 3,
    "data": {"source": "digits", "devices": 4},
    "training": {"learning_rate": 0.2},
    "uplink": {"kind": "ideal"},
    "engine": {"workers": 1},
}
UNEVEN = {"data.partition": "dirichlet", "data.alpha": 1.0}
CLOCK = {"devices": {"profiles": ["flagship-phone", "microcontroller"], "jitter": 0.2}}
A_BATCH = {"training.local_batches": 1, "training.batch_size": 32}


def scenario(changes: Mapping[str, Any]) -> Scenario:
    return Scenario.load(merge(copy.deepcopy(SMALL), nest(dict(changes))))


def compared(folder: Path, changes: Mapping[str, Any], **given: Any) -> Comparison:
    """A run, compared over samples."""
    run(scenario(changes), out=folder, report=False)
    return compare([folder], x="samples", **given)


def so_far(found: Comparison) -> list[float]:
    """Samples after each round of the first series, round 0 included."""
    x: list[float] = found.series[0].curves["samples"].x.tolist()
    return x


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of all mini-batches that devices of this process take steps on."""
    sizes: list[int] = []
    batches = clients.training.batches

    def counting(*given: Any, **named: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in batches(*given, **named):
            sizes.append(len(targets))
            yield inputs, targets

    monkeypatch.setattr(clients.training, "batches", counting)
    return sizes


def test_a_synchronous_round_of_one_batch_visits_a_batch_of_each_worker(tmp_path: Path) -> None:
    found = compared(tmp_path / "run", {"strategy.name": "synchronous", **CLOCK, **A_BATCH})
    assert so_far(found) == [0, 32 * 4, 2 * 32 * 4, 3 * 32 * 4]
    assert found.labels["samples"] == "training examples"
    assert found.axes[0] == "samples"


def test_an_epoch_of_everyone_visits_all_rows(tmp_path: Path) -> None:
    assert so_far(compared(tmp_path / "run", UNEVEN)) == [0, ROWS, 2 * ROWS, 3 * ROWS]


def test_full_batch_steps_visit_all_rows_each_time(tmp_path: Path) -> None:
    changes = {"training.full_batch": True, "training.local_steps": 5, **UNEVEN}
    assert so_far(compared(tmp_path / "run", changes))[-1] == 3 * 5 * ROWS


@pytest.mark.parametrize(
    "changes",
    [
        {"uplink.kind": "over-the-air", "uplink.code": "majority-vote", "uplink.step": 0.01, **UNEVEN},
        {"trust.largest_weight_share": 0.3, **UNEVEN},
        {"strategy": {"name": "fedavg", "fraction_train": 0.5}, **UNEVEN, "training.local_epochs": 2},
        {"strategy": {"name": "fedprox", "proximal_mu": 0.1}, **UNEVEN, "training.local_batches": 9},
        {"uplink.kind": "over-the-air", "channel.fading": "rayleigh", "impairments.availability": 0.6, **UNEVEN},
        {"uplink.kind": "digital", "codec.name": "eden", "strategy.name": "fedmedian", **UNEVEN},
        {"strategy.name": "fedavg", **CLOCK, **UNEVEN},
        {"strategy.name": "synchronous", **CLOCK, **UNEVEN},
        {"strategy.name": "synchronous", "strategy.backup_workers": 1, **CLOCK, **A_BATCH},
        {"strategy.name": "asynchronous", "strategy.largest_staleness": 1, **CLOCK, **A_BATCH},
        {"strategy.name": "stale-synchronous", **CLOCK, **A_BATCH, **UNEVEN},
        {"strategy.name": "fedbuff", "strategy.buffer": 3, "data.samples_per_device": 40, **CLOCK},
        {"strategy.name": "ring-all-reduce", **CLOCK, **UNEVEN},
        {"strategy.name": "elastic-averaging", "strategy.server": True, **CLOCK, **A_BATCH},
    ],
)
def test_samples_are_the_rows_that_devices_take_steps_on(
    tmp_path: Path, trained: list[int], changes: dict[str, Any]
) -> None:
    found = compared(tmp_path / "run", changes)
    assert so_far(found)[-1] == sum(trained) > 0
    assert np.all(np.diff(so_far(found)) > 0)


@pytest.mark.parametrize("name", ["asynchronous", "fedbuff", "stale-synchronous"])
def test_unequal_updates_of_workers_that_are_not_told_are_refused_by_name(tmp_path: Path, name: str) -> None:
    variants = [{"name": "own", "strategy": {"name": name}}, {"name": "ring", "strategy": {"name": "ring-all-reduce"}}]
    rows = [len(part) for part in build_data(scenario(UNEVEN), 0).parts]
    why = (
        rf"x = 'samples': own: an update visits {min(rows)} to {max(rows)} examples, and the record does not say whose "
        r"arrived in round 1; accepted: another cost, or --only without it"
    )
    with pytest.raises(ScenarioError, match=why):
        compared(tmp_path / "run", {**CLOCK, **UNEVEN, "variants": variants})
    assert so_far(compare([tmp_path / "run"], x="samples", only=["ring"]))[-1] == 3 * ROWS


def test_second_order_strategies_are_refused_by_name(tmp_path: Path) -> None:
    content = {**SMALL, "rounds": 1, "training": {"l2": 0.01}, "strategy": {"name": "dingo"}}
    run(Scenario.load(content), out=tmp_path / "run", report=False)
    with pytest.raises(ScenarioError, match=r"pareto = 'samples': visits: devices are asked for gradients"):
        compare([tmp_path / "run"], pareto=["samples", "test_accuracy"])


def test_a_comparison_that_does_not_ask_for_samples_counts_none(tmp_path: Path) -> None:
    run(scenario(UNEVEN), out=tmp_path / "run", report=False)
    assert "samples" not in compare([tmp_path / "run"]).axes
    found = compare([tmp_path / "run"], pareto=["samples", "test_accuracy"])
    assert "samples" in found.axes
    assert found.pareto is not None
    assert found.pareto.best == ("low", "high")
    with pytest.raises(ScenarioError, match=r"x = 'sample': no such axis; did you mean samples\?"):
        compare([tmp_path / "run"], x="sample")


def test_processes_are_counted_in_rounds_that_they_do_not_tell_of() -> None:
    """Where processes do not meet the line has their clock alone; none can have left the step out."""
    of_peers = scenario({"strategy.name": "ring-all-reduce", **A_BATCH})
    records = [{"round": 0}, {"round": 1, "clock_s": 0.1}, {"round": 2, "participants": 3}]
    assert list(visited_examples(of_peers, records, [10, 10, 10])) == [0, 30, 30]


def test_peers_that_left_a_step_out_are_not_counted_where_all_visit_as_many() -> None:
    of_peers = scenario({"strategy.name": "gossip", **A_BATCH})
    records = [{"round": 1, "participants": n} for n in (3, 2, 0)]
    assert list(visited_examples(of_peers, records, [40, 50, 60])) == [96, 64, 0]


def test_rows_that_are_not_those_of_the_run_are_refused(tmp_path: Path) -> None:
    run(scenario({}), out=tmp_path / "run", report=False)
    path = tmp_path / "run" / "rounds.jsonl"
    first, *rest = [json.loads(line) for line in path.read_text().splitlines()]
    write_rounds(path.parent, [first | {"training_examples": 1400}, *rest])
    with pytest.raises(ScenarioError, match=rf"it had 1400 training rows, but data.source = 'digits' gives {ROWS}"):
        compare([tmp_path / "run"], x="samples")


def test_a_device_with_rows_of_its_own_is_refused_where_its_weight_tells(tmp_path: Path) -> None:
    run(scenario({}), out=tmp_path / "run", report=False)
    path = tmp_path / "run" / "rounds.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    held = np.array([1, 360, 359, 359])
    write_rounds(path.parent, [*records[:-1], records[-1] | {"weights": (held / held.sum()).tolist()}])
    why = r"visits: the weights of round 3 are not by the rows that data\.source = 'digits' gives the devices; "
    with pytest.raises(ScenarioError, match=why):
        compare([tmp_path / "run"], x="samples")


def test_data_that_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise DataUnavailable("data set 'mnist' is not on this machine")

    run(scenario({}), out=tmp_path / "run", report=False)
    monkeypatch.setattr(samples, "build_data", gone)
    with pytest.raises(ScenarioError, match=r"x = 'samples': visits: data set 'mnist' is not on this machine; "):
        compare([tmp_path / "run"], x="samples")


def test_each_cell_and_seed_of_a_sweep_counts_its_own_rows(tmp_path: Path) -> None:
    """Of each seed the device of the same number sends."""
    grid = {"data.devices": [4, 5]}
    sweep = write_sweep(tmp_path / "sweep", grid, lambda _: {"rlc": lambda seed, number: 0.1 * number + seed})
    for cell in read_sweep(sweep).cells:
        for seed, folder in cell.runs().items():
            path = folder / "rlc" / "rounds.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            write_rounds(path.parent, [row | {"training_examples": ROWS, "devices": [seed]} for row in rows])
    found = compare([sweep], x="samples")
    for series, devices in zip(found.series, (4, 5), strict=True):
        sizes = [len(build_data(scenario({"data.devices": devices}), seed).parts[seed]) for seed in (0, 1)]
        assert series.costs["samples"].mean == pytest.approx(10 * np.mean(sizes))


def test_bits_of_a_system_are_those_of_its_models(tmp_path: Path) -> None:
    run(scenario({"strategy.name": "synchronous", **CLOCK, **A_BATCH}), out=tmp_path / "run", report=False)
    found = compare([tmp_path / "run"], x="bits")
    assert found.series[0].curves["bits"].x.tolist() == [32 * 650 * number for number in range(4)]


def test_samples_on_the_command_line(fedmac: Command, tmp_path: Path) -> None:
    run(scenario(UNEVEN), out=tmp_path / "run", report=False)
    ended = fedmac("compare", "run", "--x", "samples", "--to", "test_accuracy=0.5")
    assert (ended.code, ended.err) == (0, "")
    assert "training examples" in Path("run/comparison/comparison.html").read_text()
