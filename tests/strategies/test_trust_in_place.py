"""Devices that train in place are believed as far as those that are reached by messages, and judged as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from channel import AnalogUplink, Channel, IdealUplink, MinimumMSE, RandomLinearCode, Rayleigh, Uplink
from clients.app import Workplace, client_app
from clients.attack import Attack
from fedmac.engines.local import LocalGrid
from strategies import OverTheAir
from strategies.trust import Trust
from tests import fleet

ATTACKERS = [3, 30]

TRUST = Trust(largest_norm_ratio=5.0, bad_replies=1, quarantine_rounds=2)

UPLINKS: dict[str, Callable[[], Uplink]] = {
    "ideal": IdealUplink,
    "random-linear": lambda: AnalogUplink(
        RandomLinearCode(ratio=0.5), MinimumMSE(), Channel(Rayleigh(), noise_power=0.01)
    ),
}

Run = tuple[NDArray[Any], list[dict[str, Any]]]


def fleet_with_attackers(factor: float, dtype: torch.dtype) -> Workplace:
    """40 devices: more than the engine has lanes, so that attackers share theirs with honest ones."""
    work = fleet.workplace(40, dtype=dtype, rows=6)
    work.attack = Attack("scaled-update", frozenset(ATTACKERS), factor)
    return work


def run(work: Workplace, uplink: Uplink, *, in_place: bool = True, **engine: int) -> Run:
    records: list[dict[str, Any]] = []
    strategy = OverTheAir(FedAvg(fraction_evaluate=0.0), uplink, on_exchange=records.append, trust=TRUST)
    with LocalGrid(work, client_app(lambda _context, _config: work), **engine) as grid:
        result = fleet.run(strategy, grid if in_place else fleet.MessageGrid(grid), work, rounds=4)
    return fleet.flat(result.arrays), records


def refusals(records: list[dict[str, Any]]) -> list[Any]:
    """Of each round: who failed and of which kind, beyond which bound, who was not asked, what is counted so far."""
    return [
        [
            [(f["device"], f["kind"]) for f in r["failures"]],
            [f["reason"].rpartition(", ")[2] for f in r["failures"] if f["kind"] == "norm"],
            r.get("not_asked", []),
            r.get("bad_replies"),
        ]
        for r in records
    ]


# A norm of float32 numbers overflows beyond 1.8e19, the update itself beyond 3.4e38.
@pytest.mark.parametrize(
    ("factor", "dtype", "kind"),
    [
        (1e4, torch.float64, "norm"),
        (1e4, torch.float32, "norm"),
        (1e25, torch.float32, "norm"),
        (1e39, torch.float32, "not-finite"),
    ],
)
@pytest.mark.parametrize("name", UPLINKS)
def test_attackers_are_refused_and_quarantined_in_place_as_by_messages(
    name: str, factor: float, dtype: torch.dtype, kind: str
) -> None:
    work = fleet_with_attackers(factor, dtype)
    (model, records), (expected, theirs) = (run(work, UPLINKS[name](), in_place=way) for way in (True, False))
    assert refusals(records) == refusals(theirs)
    assert refusals(records)[0][0] == [(attacker, kind) for attacker in ATTACKERS]
    out = [[one["device"] for one in record.get("not_asked", [])] for record in records]
    assert out == [[], ATTACKERS, ATTACKERS, []]
    assert records[-1]["bad_replies"] == {str(attacker): {kind: 2} for attacker in ATTACKERS}
    # Added up before coding or coded before they are added up: roundings of the dtype, through four rounds. Of a
    # refused update nothing is left: subtracted from a float32 sum, one of 1e25 would leave its rounding there, 1e18.
    close = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(model, expected, rtol=0, atol=close)
    for mine, other in zip(records, theirs, strict=True):
        assert mine["devices"] == other["devices"]
        for figure in ("weights", "update_norms"):
            np.testing.assert_allclose(mine[figure], other[figure], rtol=close)


@pytest.mark.parametrize("engine", [{"batch": 7}, {"workers": 2}, {"memory": 0}], ids=str)
@pytest.mark.parametrize("name", UPLINKS)
def test_they_are_whichever_way_the_engine_trains(name: str, engine: dict[str, int]) -> None:
    """In batches, by workers, and with updates that are added up as they come."""
    work = fleet_with_attackers(1e25, torch.float32)
    (model, records), (expected, theirs) = (run(work, UPLINKS[name](), **way) for way in (engine, {}))
    assert refusals(records) == refusals(theirs)
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-4)  # sums in another order, as above


def test_a_loss_that_is_not_finite_is_refused_in_place_as_by_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    work = fleet.workplace(5)
    train = work.train

    def losing(received: torch.Tensor, device: int, *more: Any, **named: Any) -> Any:
        state, examples, loss = train(received, device, *more, **named)
        return state, examples, float("inf") if device == 3 else loss

    monkeypatch.setattr(work, "train", losing)
    (model, records), (expected, theirs) = (run(work, IdealUplink(), in_place=way) for way in (True, False))
    assert [record["failures"] for record in records] == [record["failures"] for record in theirs]
    assert refusals(records) == refusals(theirs)
    assert refusals(records)[0][0] == [(3, "metrics")]
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-9)


def test_a_device_that_raises_in_place_is_in_error_and_never_in_quarantine() -> None:
    work = fleet.workplace(5)
    work.data.device(2).targets[0] = 99
    _, records = run(work, IdealUplink())
    assert [[(f["device"], f["kind"]) for f in record["failures"]] for record in records] == [[(2, "error")]] * 4
    assert all("bad_replies" not in record for record in records)
