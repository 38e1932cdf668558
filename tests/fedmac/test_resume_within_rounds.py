"""Systems with a server write checkpoints after so many replies too, and go on from them to the last bit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import fedmac
from fedmac.build_devices import build_workplace
from fedmac.checkpoint import Checkpoint, CheckpointFile
from fedmac.record import read_rounds
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.session import perform, plan
from tests.fedmac.clock.small_systems import SYSTEMS, changed, simulated
from tests.fedmac.small_scenario import small
from tests.fedmac.test_resume import Cut
from tests.fleet import message_grid

torch.set_num_threads(1)

FAULTS = {"loss": 0.1, "mean_up_s": 0.02, "mean_down_s": 0.004, "hang_probability": 0.1, "hang_s": 0.01}
CASES: dict[str, dict[str, Any]] = {
    "synchronous, faults": {
        "strategy": {"name": "synchronous", "backup_workers": 1},
        "faults": FAULTS,
        "engine.round_timeout_s": 0.012,
    },
    "asynchronous, spans": {"devices.spans": True},
    "stale-synchronous, packets": {
        "strategy": {"name": "stale-synchronous", "staleness_bound": 1},
        "uplink.kind": "digital",
        "codec": {"name": "qsgd", "packing": "entropy"},
    },
    "fedbuff, an attacker in quarantine": {
        "strategy": {"name": "fedbuff", "buffer": 3, "concurrency": 3},
        "attackers": {"devices": [1], "kind": "scaled-update", "factor": 1e4},
        "trust": {"largest_norm_ratio": 50.0, "bad_replies": 1, "quarantine_rounds": 1},
    },
}


def run(changes: dict[str, Any], out: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    fedmac.run(Scenario.load(changed(changes)), out=out, report=False, resume=resume)
    return simulated(read_rounds(out / "rounds.jsonl"))


def cut_at(monkeypatch: pytest.MonkeyPatch, number: int, *, written: bool) -> list[int]:
    """End the run at its n-th checkpoint from now; the list gets the rounds of those that are written."""
    save, after, asked = CheckpointFile.save, [], iter(range(1, number + 1))

    def saving(self: CheckpointFile, checkpoint: Checkpoint) -> None:
        last = next(asked) == number
        if written or not last:
            save(self, checkpoint)
            after.append(checkpoint.round)
        if last:
            raise Cut

    monkeypatch.setattr(CheckpointFile, "save", saving)
    return after


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_run_cut_off_at_each_of_its_checkpoints_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    changes = changes | {"rounds": 4, "engine.checkpoint_arrivals": 2}
    whole = run(changes, tmp_path / "whole")
    assert any(record["failures"] for record in whole[1:]) == (not changes.keys().isdisjoint(("faults", "trust")))
    after: list[int] = []
    cut = True
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(starts anew|no checkpoints).*")
        while cut:
            with monkeypatch.context() as patch:  # each time one checkpoint further, cut off after it or at the next
                written = len(after) % 2 == 0
                new = cut_at(patch, 1 if written else 2, written=written)
                try:
                    resumed = run(changes, tmp_path / "cut", resume=bool(after))
                    cut = False
                except Cut:
                    after += new
    assert after[0] == 0
    assert len(after) > len(set(after))
    assert resumed == whole
    models = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("cut", "whole")]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("every", "arrivals", "after"),
    [
        (1, 1, [0, 0, 0, 1, 1, 1, 1, 2]),  # four replies a round; the fourth and its round have one together
        (1, 4, [1, 2]),
        (1, 5, [1, 1, 2]),
        (2, 4, [1, 2]),
        (0, 3, [0, 1]),
        (0, 8, [2]),
        (0, 9, []),
    ],
)
def test_there_is_a_checkpoint_after_so_many_replies(
    every: int, arrivals: int, after: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"strategy": {"name": "synchronous"}, "rounds": 2, "engine.checkpoint_every": every}
    written = cut_at(monkeypatch, 100, written=True)
    run(changes | {"engine.checkpoint_arrivals": arrivals}, tmp_path / "run")
    assert written == after


@pytest.mark.parametrize("name", SYSTEMS)
def test_in_real_time_a_run_goes_on_from_within_a_round_with_what_it_has(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = small({"engine.checkpoint_arrivals": 1}, strategy={"name": name}, uplink={"kind": "ideal"})

    def on_messages() -> None:
        (job,) = plan(Scenario.load(content), tmp_path / "run")
        work = build_workplace(job.variant.scenario, job.seed)
        perform(job, message_grid(work), work, lambda _: None)

    for number in (2, 5, 2):  # within the first round, and within later ones
        with monkeypatch.context() as patch:
            cut_at(patch, number, written=True)
            with pytest.raises(Cut):
                on_messages()
    on_messages()
    rounds = read_rounds(tmp_path / "run" / "rounds.jsonl")
    assert [line["round"] for line in rounds] == [0, 1, 2, 3]
    assert [line["accepted"] for line in rounds[1:]] == [4, 4, 4]  # none twice, and none lost
    assert [line["clock_s"] for line in rounds[1:]] == sorted(line["clock_s"] for line in rounds[1:])
    # Three messages each at the least, and those that were cut off; a model and the headers of its arrays.
    assert all(rounds[-1][f"bits_{way}per_device_mean"] >= 3 * 32 * rounds[0]["parameters"] for way in ("", "down_"))
    assert [line["wire_up_bytes"] for line in rounds[1:]] == sorted(line["wire_up_bytes"] for line in rounds[1:])


@pytest.mark.parametrize("name", ["fedavg", "dingo", "gossip"])
def test_where_no_server_takes_replies_one_by_one_the_key_is_refused(name: str) -> None:
    own = {"training": {"l2": 1e-2}} if name == "dingo" else {}
    content = small({"engine.checkpoint_arrivals": 3}, strategy={"name": name}, uplink={"kind": "ideal"}, **own)
    with pytest.raises(ScenarioError) as refused:
        Scenario.load(content)
    assert str(refused.value) == (
        f'engine.checkpoint_arrivals = 3: strategy.name = "{name}" has no server that takes replies one by one; '
        'accepted: checkpoint_arrivals left out, or strategy.name = "synchronous", "asynchronous", '
        '"stale-synchronous", "fedbuff"'
    )


def test_variants_whose_strategy_has_no_use_for_it_do_without() -> None:
    systems = [{"name": name, "strategy": {"name": name}} for name in ("asynchronous", "fedbuff")]
    content = small({"engine.checkpoint_arrivals": 3}, uplink={"kind": "ideal"})
    variants = Scenario.load(content | {"variants": [*systems, {"name": "plain"}]}).resolve()
    assert [one.scenario.engine.checkpoint_arrivals for one in variants] == [3, 3, None]
    with pytest.raises(ScenarioError, match=r"engine\.checkpoint_arrivals = 3: no variant has a server that takes"):
        Scenario.load(content | {"variants": [{"name": "plain"}]})


def test_the_key_is_a_count() -> None:
    with pytest.raises(ScenarioError, match=r"engine\.checkpoint_arrivals = 0: accepted: an integer >= 1"):
        Scenario.load(changed({"engine.checkpoint_arrivals": 0}))
