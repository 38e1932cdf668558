"""How many training examples runs have visited, counted from their records when a comparison asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from clients.data import DataUnavailable
from clients.training import Training
from clients.training_flops import examples_visited
from fedmac.build_devices import build_data
from fedmac.record import read_rounds
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_sections import Data
from fedmac.studies.compare.contenders import Contender
from strategies.names import STRATEGIES

SAMPLES = "samples"
"""The axis, and the key of what a seed has visited so far in the rounds of :func:`with_samples`."""

ROUNDING = 1e-9
"""Of weights, relative: one row more or fewer shows among up to a billion."""

_OF_TRAINING = {"full_batch", "local_steps", "local_epochs", "local_batches", "batch_size"}
_ACCEPTED = "accepted: another cost, or --only without it"


class _Uncountable(Exception):
    """Why the examples of a run are not known."""


def with_samples(those: Sequence[Contender], option: str) -> list[Contender]:
    r"""The contenders, with the training examples visited so far in each round.

    An update of device k, with n_k rows, visits v_k examples: n_k times the local epochs or full-batch steps, or the
    rows of its mini-batches. A round adds

    .. math:: \sum_k u_k v_k ,

    where u_k is how many usable updates of k arrived in it: over the air of those who sent, heard or not; at a server
    of workers also the rejected and the late ones; without a server the round's step of those who took it. Training
    whose update never came is not counted.

    Parameters
    ----------
    those : sequence of Contender
    option : str
        Which option asked for it, for the message.

    Raises
    ------
    ScenarioError
        If a record does not tell: of second-order strategies; of systems of workers whose updates do not all visit
        equally many examples, in a round that not everyone was part of once; and if the rows that the scenario deals
        out are not here, or the record shows that the run had others.
    RecordError
        If a record cannot be read.
    """
    dealt: dict[tuple[Data, int], list[int]] = {}
    counted = []
    for own in those:
        try:
            seeds = {seed: _with_samples(own, seed, dealt) for seed in own.seeds}
        except (_Uncountable, DataUnavailable) as error:
            raise ScenarioError(f"{option} = {SAMPLES!r}: {own.name}: {error}; {_ACCEPTED}") from None
        counted.append(replace(own, seeds=seeds))
    return counted


def visited_examples(scenario: Scenario, records: Iterable[Mapping[str, Any]], rows: Sequence[int]) -> Iterator[int]:
    """The examples that each record's round added.

    Parameters
    ----------
    scenario : Scenario
        One variant of a run.
    records : iterable of mapping
        Lines of one seed; see docs/record.md.
    rows : sequence of int, length p
        Rows of each device.
    """
    said = scenario.training.model_dump(include=_OF_TRAINING, exclude_none=True)
    training = Training(learning_rate=0.0, **said)  # which is no part of it
    visits = [examples_visited(training, held) for held in rows]
    for record in records:
        _check_weights(scenario, record, rows)
        yield _visited(scenario, record, visits) if record["round"] > 0 else 0


def _with_samples(own: Contender, seed: int, dealt: dict[tuple[Data, int], list[int]]) -> list[dict[str, float]]:
    scenario = own.runs.variant.scenario
    if STRATEGIES[scenario.strategy.name].second_order:
        raise _Uncountable("devices are asked for gradients and curvature, of which the record counts no examples")
    if (scenario.data, seed) not in dealt:
        dealt[scenario.data, seed] = [len(part) for part in build_data(scenario, seed).parts]
    rows = dealt[scenario.data, seed]
    records = [record for record in read_rounds(own.runs.files[seed]) if record["seed"] == seed]
    records.sort(key=lambda record: int(record["round"]))
    had = next((record["training_examples"] for record in records if "training_examples" in record), sum(rows))
    if had != sum(rows):
        raise _Uncountable(f"it had {had} training rows, but data.source = {scenario.data.source!r} gives {sum(rows)}")
    so_far = accumulate(visited_examples(scenario, records, rows))
    totals = {record["round"]: total for record, total in zip(records, so_far, strict=True)}
    return [{**row, SAMPLES: float(totals[row["round"]])} for row in own.seeds[seed]]


def _check_weights(scenario: Scenario, record: Mapping[str, Any], rows: Sequence[int]) -> None:
    """Refuse devices whose weights, where a record has them, are not by these rows: their data is from elsewhere."""
    weights, held = record.get("weights"), np.array([rows[device] for device in record.get("devices", ())])
    if weights is None or scenario.trust.largest_weight_share < 1:
        return
    if not np.allclose(weights, held / held.sum(), rtol=ROUNDING, atol=0):
        reason = f"the weights of round {record['round']} are not by the rows that data.source"
        raise _Uncountable(f"{reason} = {scenario.data.source!r} gives the devices")


def _visited(scenario: Scenario, record: Mapping[str, Any], visits: Sequence[int]) -> int:
    """Of one round; `visits` are those of one update of each device."""
    strategy = STRATEGIES[scenario.strategy.name]
    if not strategy.on_clock:
        return sum(visits[device] for device in record.get("devices", ()))
    if strategy.peers:
        # Of processes only those rounds tell after which they meet, but nobody can leave one out.
        updates, once = record.get("participants", len(visits)), True
    else:
        unused = record["rejected"] + record["late"]
        updates = record["accepted"] + unused
        once = scenario.strategy.name == "synchronous" and not unused
    if once and updates == len(visits):
        return sum(visits)
    if updates and len(set(visits)) > 1:
        raise _Uncountable(
            f"an update visits {min(visits)} to {max(visits)} examples, and the record does not say whose arrived in "
            f"round {record['round']}"
        )
    return int(updates) * visits[0]
