"""Who sends what nobody can use is not asked for a while, and everyone else is as if it were not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

from channel.order import TRANSMISSION_KEY
from channel.uplinks import IdealUplink
from strategies import AirGrid, OverTheAir
from strategies.quarantine import Quarantine
from strategies.refusal import BAD_KINDS, Failure
from strategies.trust import Trust, capped_shares
from tests import fleet
from tests.packet_exchange import digital

BAD = Failure(3, "a norm of NaN", "norm")


def rounds_out(quarantine: Quarantine, bad: Sequence[int], until: int, device: int = 3) -> list[int]:
    """Rounds in which a device is not asked, if in those of `bad`, when asked, it sends what nobody can use."""
    out: list[int] = []
    for round in range(1, until + 1):
        if quarantine.out(device, round) is not None:
            out.append(round)
        else:
            quarantine.note(round, 10, [Failure(device, "NaN", "not-finite")] if round in bad else [])
    return out


def test_three_bad_replies_within_ten_rounds_cost_five_rounds() -> None:
    assert rounds_out(Quarantine(Trust()), bad=[1, 4, 8], until=30) == [9, 10, 11, 12, 13]


def test_bad_replies_that_are_far_apart_cost_nothing() -> None:
    assert rounds_out(Quarantine(Trust()), bad=[1, 11, 21, 31, 41], until=60) == []


def test_each_quarantine_is_twice_as_long_and_begins_with_a_clean_sheet() -> None:
    trust = Trust(bad_replies=2, quarantine_rounds=1)
    out = rounds_out(Quarantine(trust), bad=range(1, 100), until=30)
    # Two bad rounds, then 1, 2, 4 and 8 out.
    assert out == [3, *(6, 7), *(10, 11, 12, 13), *range(16, 24), *range(26, 31)]


def test_without_a_number_of_bad_replies_nobody_is_ever_out() -> None:
    quarantine = Quarantine(Trust(bad_replies=0))
    assert rounds_out(quarantine, bad=range(1, 50), until=50) == []
    assert quarantine.figures() == {"bad_replies": {"3": {"not-finite": 49}}}


@pytest.mark.parametrize("kind", ["no-reply", "error", "lost"])
def test_who_does_not_answer_whose_app_raises_or_whose_packet_is_lost_is_not_bad(kind: str) -> None:
    quarantine = Quarantine(Trust(bad_replies=1))
    quarantine.note(1, 10, [Failure(3, "", kind)])
    assert quarantine.out(3, 2) is None
    assert quarantine.figures() == {}


def test_what_most_devices_get_wrong_is_held_against_nobody_but_counted() -> None:
    quarantine = Quarantine(Trust(bad_replies=1))
    quarantine.note(1, 3, [Failure(device, "NaN", "not-finite") for device in range(2)])
    assert [quarantine.out(device, 2) for device in range(3)] == [None] * 3
    assert quarantine.figures() == {"bad_replies": {"0": {"not-finite": 1}, "1": {"not-finite": 1}}}
    quarantine.note(2, 4, [Failure(device, "NaN", "not-finite") for device in range(2)])
    assert [quarantine.out(device, 3) is None for device in range(3)] == [False, False, True]


EXCHANGES = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.lists(st.builds(Failure, st.integers(0, 3), st.just("why"), st.sampled_from(sorted(BAD_KINDS)))),
    ),
    max_size=20,
)


@given(before=EXCHANGES, after=EXCHANGES)
def test_a_quarantine_that_is_written_and_read_goes_on_as_the_one_that_was_not(before: Any, after: Any) -> None:
    whole = Quarantine(Trust(bad_replies=2, quarantine_rounds=1))
    for round, (answered, failures) in enumerate(before):
        whole.note(round, answered, failures)
    resumed = Quarantine(whole.trust)
    resumed.restore(json.loads(json.dumps(whole.state())))
    for round, (answered, failures) in enumerate(after, len(before)):
        for one in (whole, resumed):
            one.note(round, answered, failures)
        assert whole.state() == resumed.state()
        assert [whole.out(d, round + 1) for d in range(4)] == [resumed.out(d, round + 1) for d in range(4)]


# In a run.


def shouting(reply: Message) -> Message:
    reply.content.config_records[TRANSMISSION_KEY]["norm"] = float("nan")
    return reply


@pytest.mark.parametrize("uplink", [IdealUplink, digital])
def test_a_run_goes_on_without_the_device_and_its_record_says_so(uplink: Any) -> None:
    def finals(tamper: Any, devices: Any) -> tuple[Any, list[dict[str, Any]]]:
        work, records = fleet.workplace(), []  # type: ignore[var-annotated]
        air = AirGrid(
            fleet.message_grid(work, tamper), uplink(), on_exchange=records.append,
            trust=Trust(bad_replies=2, quarantine_rounds=2),
        )  # fmt: skip
        model, nodes = fleet.initial(work), air.get_node_ids()
        for round in range(1, 6):
            asked = [nodes[device] for device in devices]
            replies = list(air.send_and_receive(fleet.train_messages(model, asked, round=round)))
            model = replies[0].content.array_records["arrays"]
        return fleet.flat(model), records

    model, records = finals({1: shouting}, range(4))
    out = [[one["device"] for one in record.get("not_asked", [])] for record in records]
    bad = [[one["device"] for one in record["failures"]] for record in records]
    assert (bad, out) == ([[1], [1], [], [], [1]], [[], [], [1], [1], []])
    assert "quarantined until round 5" in records[2]["not_asked"][0]["reason"]
    assert records[-1]["bad_replies"] == {"1": {"norm": 3}}
    assert [record["devices"] for record in records] == [[0, 2, 3]] * 5
    np.testing.assert_array_equal(model, finals({}, [0, 2, 3])[0])


def test_the_last_device_that_is_left_is_always_asked() -> None:
    work, records = fleet.workplace(), []  # type: ignore[var-annotated]
    strategy = OverTheAir(
        FedAvg(fraction_evaluate=0.0), IdealUplink(), on_exchange=records.append, trust=Trust(bad_replies=1)
    )
    turns = iter(range(100))
    one_at_a_time: Any = lambda reply: shouting(reply) if next(turns) in (0, 4, 7, 9) else reply  # noqa: E731
    grid = fleet.message_grid(work, dict.fromkeys(range(4), one_at_a_time))
    fleet.run(strategy, grid, work, rounds=5)
    # A quarter, then a third, then half of those who answered: no more than half. The last is alone, and not believed
    # to be wrong.
    assert [len(record["failures"]) for record in records] == [1, 1, 1, 1, 0]
    assert [len(record.get("not_asked", [])) for record in records] == [0, 1, 2, 3, 3]


# Shares.

WEIGHTS = st.lists(st.floats(1e-6, 1e15), min_size=1, max_size=12).map(np.array)


@given(weights=WEIGHTS, largest=st.floats(0.01, 1.0))
def test_shares_add_up_to_one_none_above_the_largest_and_in_the_order_of_the_weights(
    weights: Any, largest: float
) -> None:
    shares = capped_shares(weights, largest)
    assert shares.sum() == pytest.approx(1.0, rel=1e-9)
    assert (shares <= max(largest, 1 / len(weights)) * (1 + 1e-9)).all()
    rising = np.argsort(weights, kind="stable")
    assert (np.diff(shares[rising]) >= -1e-12).all()


@given(weights=WEIGHTS)
def test_where_no_share_is_too_large_weights_are_only_normalised(weights: Any) -> None:
    np.testing.assert_array_equal(capped_shares(weights, 1.0), weights / weights.sum())


@given(weights=WEIGHTS, largest=st.floats(0.01, 1.0))
def test_devices_below_the_largest_share_keep_their_proportions(weights: Any, largest: float) -> None:
    shares = capped_shares(weights, largest)
    free = shares < largest * (1 - 1e-9)
    if len(weights) * largest > 1 and free.sum() > 1:
        ratios = shares[free] / weights[free]
        np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("given_value", "accepted"),
    [
        ({"largest_weight_share": 0.0}, "largest_weight_share = 0.0: accepted: a number > 0 and <= 1"),
        ({"largest_weight_share": float("nan")}, "largest_weight_share = nan"),
        ({"largest_norm_ratio": 1.0}, "largest_norm_ratio = 1.0: accepted: a number > 1"),
        ({"bad_replies": -1}, "bad_replies = -1: accepted: an integer >= 0"),
        ({"within_rounds": 0}, "within_rounds = 0: accepted: an integer >= 1"),
        ({"quarantine_rounds": 2.5}, "quarantine_rounds = 2.5: accepted: an integer >= 1"),
    ],
)
def test_trust_refuses_what_has_no_meaning(given_value: dict[str, Any], accepted: str) -> None:
    with pytest.raises(ValueError, match="accepted") as refused:
        Trust(**given_value)
    assert accepted in str(refused.value)


def test_an_update_a_million_times_as_long_as_the_median_is_not_believed() -> None:
    trust = Trust()
    assert list(trust.too_long({0: 1.0, 1: 2.0, 2: 3.0, 3: 2.1e6})) == [3]
    assert trust.too_long({0: 1.0, 1: 2.0, 2: 3.0, 3: 1.9e6}) == {}
    assert trust.too_long({0: 1.0, 1: 1e9}) == {}, "of two nobody can say which is wrong"
    assert trust.too_long({0: 0.0, 1: 0.0, 2: 1.0}) == {}, "idle devices are no measure"
    assert Trust(largest_norm_ratio=float("inf")).too_long({0: 1.0, 1: 1.0, 2: 1.0, 3: 1e90}) == {}
