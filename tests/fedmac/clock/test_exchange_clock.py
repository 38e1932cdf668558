"""The clock of devices that send together, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmac.clock.clocked_grid import Span
from fedmac.clock.exchange_clock import ExchangeClock
from fedmac.clock.fleet import Fleet
from fedmac.clock.links import Link
from fedmac.clock.network import Network
from strategies.air_record import Record
from strategies.systems.synchronous import Synchronous
from tests.fedmac.clock.simulated import ONE_FLOP_A_SECOND, clocked, unchanged
from tests.strategies.systems.least_squares import run

AIR = 0.25
"""Seconds on air of an exchange."""


def clock(seconds: Sequence[float], network: Network | None = None, bits: float = 0.0, **more: Any) -> ExchangeClock:
    """Of devices whose training takes so many seconds; `more` may have a fleet's jitter."""
    own = {key: more.pop(key) for key in ("deadline", "on_span") if key in more}
    fleet = Fleet([ONE_FLOP_A_SECOND], len(seconds), 0, **more)
    return ExchangeClock(fleet, lambda device: seconds[device], network=network, model_bits=bits, **own)


def exchange(number: int, devices: Sequence[int], *, failed: Sequence[int] = (), joules: float = 0.0) -> Record:
    """What the air tells of an exchange."""
    record: Record = {
        "exchange": number, "devices": list(devices), "air_time_s": AIR * number,
        "failures": [{"device": device, "reason": "out of memory", "kind": "error"} for device in failed],
    }  # fmt: skip
    return record | ({"energies": [joules] * len(devices)} if devices else {})


def test_an_exchange_takes_the_download_the_slowest_computing_and_the_air_time() -> None:
    # A broadcast of 100 bits at the slowest's 50 bit/s, half a second of latency; 3 s; a quarter of a second on air.
    medium = Network([Link(1.0, rate, 0.5) for rate in (200.0, 50.0)], shared_medium=True)
    told = clock([3.0, 1.0], medium, 100.0).pass_exchange(exchange(1, [0, 1]))
    assert told["download_s"] == 2.5
    assert told["compute_s"] == 3.0
    assert told["clock_s"] == 2.5 + 3.0 + AIR


def test_on_a_wired_network_models_leave_the_server_one_after_the_other() -> None:
    # 100 bits at the server's 100 bit/s: there after 1 and 2 s; the second is ready at 2 + 3 = 5, the first at 1 + 3.5.
    wired = Network([Link(1e9, 1e9, 0.0)] * 2, 100.0)
    told = clock([3.5, 3.0], wired, 100.0).pass_exchange(exchange(1, [0, 1]))
    assert told["clock_s"] == pytest.approx(5.0 + AIR, abs=1e-12)
    assert told["download_s"] == pytest.approx(1.5, abs=1e-12)  # beyond the slowest's 3.5 s


def test_without_work_only_the_air_takes_time() -> None:
    here = clock([0.0, 0.0])
    for number in range(1, 4):
        told = here.pass_exchange(exchange(number, [0, 1]))
    assert told["clock_s"] == 3 * AIR
    assert told["compute_s"] == told["download_s"] == told["utilisation_mean"] == 0.0


def test_identical_devices_wait_for_nobody_but_the_air() -> None:
    told = clock([2.0] * 5).pass_exchange(exchange(1, range(5)))
    assert told["clock_s"] == 2.0 + AIR
    assert told["utilisation"] == pytest.approx([2.0 / 2.25] * 5, abs=1e-6)  # rounded to six places


def test_only_devices_that_are_asked_hold_the_others_up() -> None:
    here = clock([1.0, 2.0, 50.0])
    assert here.pass_exchange(exchange(1, [0, 1]))["clock_s"] == 2.0 + AIR
    assert here.pass_exchange(exchange(2, [0]))["clock_s"] == 3.0 + 2 * AIR


def test_a_device_that_fails_has_computed_all_the_same() -> None:
    here = clock([1.0, 7.0])
    told = here.pass_exchange(exchange(1, [0], failed=[1]))
    assert told["compute_s"] == 7.0
    assert here.usage.compute_j == [2.0, 14.0]


def test_an_exchange_of_nobody_takes_no_computing() -> None:
    told = clock([9.0], Network([Link(1.0, 1.0, 1.0)], shared_medium=True), 8.0).pass_exchange(exchange(1, []))
    assert told["clock_s"] == AIR


def test_energy_is_computing_waiting_and_radio() -> None:
    medium = Network([Link(1.0, rate, 0.0, receive_watts=0.5) for rate in (200.0, 50.0)], shared_medium=True)
    told = clock([3.0, 1.0], medium, 100.0).pass_exchange(exchange(1, [0, 1], joules=0.125))
    # 5.25 s: 2 s of download, 3 s of the slowest, a quarter on air. 2 W at work, 0.5 W else; both listen for 2 s.
    assert told["compute_j_per_device_mean"] == pytest.approx(2.0 * (3.0 + 1.0) / 2)
    assert told["idle_j_per_device_mean"] == pytest.approx(0.5 * (2.25 + 4.25) / 2)
    assert told["radio_j_per_device_mean"] == pytest.approx(0.125 + 0.5 * 2.0)
    parts = sum(told[f"{part}_j_per_device_mean"] for part in ("compute", "idle", "radio"))
    assert told["energy_j_per_device_mean"] == pytest.approx(parts)
    assert told["energy_j_per_device_max"] == pytest.approx(6.0 + 0.5 * 2.25 + 1.125)
    assert told["bits_down_per_device_mean"] == 100.0


@given(
    seconds=st.lists(st.floats(0.0, 1e3), min_size=1, max_size=6),
    rates=st.lists(st.floats(1.0, 1e6), min_size=6, max_size=6),
    shared=st.booleans(),
)
def test_the_clock_is_the_sum_of_its_parts(seconds: list[float], rates: list[float], shared: bool) -> None:
    network = Network([Link(1.0, rate, 0.01) for rate in rates[: len(seconds)]], 1e4, shared_medium=shared)
    here = clock(seconds, network, 256.0, jitter=0.3)
    before = 0.0
    for number in range(1, 4):
        told = here.pass_exchange(exchange(number, range(len(seconds))))
        assert told["clock_s"] > before
        before = told["clock_s"]
    # Sums in another order: rounding alone.
    assert told["compute_s"] + told["download_s"] + here.air_s == pytest.approx(told["clock_s"], rel=1e-12)
    assert told["download_s"] > 0


def test_jitter_and_stragglers_are_those_of_the_synchronous_system() -> None:
    seconds = [1.0, 1.5, 0.5]
    of_fleet = {"jitter": 0.4, "straggler_probability": 0.2, "straggler_slowdown": 5.0}
    system = run(Synchronous(), clocked(unchanged, seconds, **of_fleet), 6)
    here = clock(seconds, **of_fleet)
    times = [here.pass_exchange(exchange(n, range(3)) | {"air_time_s": 0.0})["clock_s"] for n in range(1, 7)]
    assert times == pytest.approx(system.times[1:], rel=1e-12)


def test_who_trains_beyond_the_deadline_is_waited_for_until_then_and_has_worked_in_vain() -> None:
    here = clock([1.0, 9.0], deadline=4.0)
    assert [here.is_late(device) for device in (0, 1)] == [False, True]
    told = here.pass_exchange(exchange(1, [0], failed=[1]))
    assert told["compute_s"] == 4.0
    assert told["clock_s"] == 4.0 + AIR
    assert here.usage.compute_j == [2.0, 8.0]  # 2 W; four of nine seconds


def test_who_is_late_goes_by_the_exchange_to_come() -> None:
    here = clock([1.0] * 4, deadline=1.0, jitter=0.5)
    for number in range(1, 5):
        late = [device for device in range(4) if here.is_late(device)]
        there = [device for device in range(4) if device not in late]
        before = here.compute_s
        here.pass_exchange(exchange(number, there, failed=late))
        took = here.compute_s - before
        assert took == pytest.approx(1.0) if late else took < 1.0


def test_spans_are_told_once_they_are_over() -> None:
    spans: list[Span] = []
    medium = Network([Link(1.0, 100.0, 0.0)] * 2, shared_medium=True)
    clock([3.0, 2.0], medium, 100.0, on_span=spans.append).pass_exchange(exchange(1, [0, 1]))
    assert spans == [
        (0, "receive", 0.0, 1.0), (1, "receive", 0.0, 1.0),
        (0, "compute", 1.0, 4.0), (1, "compute", 1.0, 3.0), (0, "send", 4.0, 4.25), (1, "send", 4.0, 4.25),
    ]  # fmt: skip


def received(network: Network | None) -> list[Span]:
    """Spans of receiving 100 bits in the second of two exchanges, which begins at 5 s."""
    spans: list[Span] = []
    here = clock([1.0, 1.0], network, 100.0, on_span=spans.append)
    first = here.pass_exchange(exchange(1, []) | {"air_time_s": 5.0})
    assert first["clock_s"] == 5.0
    here.pass_exchange(exchange(2, [0], failed=[1]) | {"air_time_s": 6.0})
    return [span for span in spans if span[1] == "receive"]


def test_a_broadcast_is_received_for_as_long_as_the_slowest_needs() -> None:
    links = [Link(1.0, rate, latency) for rate, latency in ((200.0, 0.25), (50.0, 0.5))]
    assert received(Network(links, shared_medium=True)) == [(0, "receive", 5.5, 7.5), (1, "receive", 5.5, 7.5)]


def test_on_a_wired_network_each_receives_at_its_own_rate_when_its_turn_comes() -> None:
    # The server sends for a second each; the first device needs half of that, the second two seconds.
    links = [Link(1.0, rate, 0.25) for rate in (200.0, 50.0)]
    assert received(Network(links, 100.0)) == [(0, "receive", 5.75, 6.25), (1, "receive", 6.25, 8.25)]


def test_a_model_that_is_there_at_once_is_not_received() -> None:
    assert received(None) == received(Network([Link(1.0, np.inf, 0.5)] * 2, shared_medium=True)) == []


def test_a_clock_goes_on_from_its_state_to_the_bit() -> None:
    def fresh() -> ExchangeClock:
        return clock([1.0, 2.0], Network([Link(1.0, 70.0, 0.1)] * 2, 90.0), 64.0, jitter=0.5)

    unbroken, broken, resumed = fresh(), fresh(), fresh()
    told = [unbroken.pass_exchange(exchange(n, [0, 1], joules=0.1 * n)) for n in range(1, 7)]
    for number in range(1, 4):
        broken.pass_exchange(exchange(number, [0, 1], joules=0.1 * number))
    resumed.restore(broken.state())
    assert [resumed.pass_exchange(exchange(n, [0, 1], joules=0.1 * n)) for n in range(4, 7)] == told[3:]


def test_a_network_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="network: of 3 devices; accepted: 2, as the fleet has"):
        clock([1.0, 1.0], Network([Link(1.0, 1.0, 0.0)] * 3))


def test_figures_are_ready_for_json() -> None:
    told = clock([1.0, 2.0]).pass_exchange(exchange(1, [0, 1], joules=1.0))
    assert not any(isinstance(value, np.generic) for value in told.values())
