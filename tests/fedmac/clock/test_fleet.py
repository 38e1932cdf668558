"""How long devices compute."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from clients.device_profiles import ComputeProfile, profile_from, read_profiles, shipped_profiles
from fedmac.clock.fleet import Fleet
from fedmac.clock.named_draws import BLOCK, NamedDraws, normal
from tests.fedmac.clock.simulated import ONE_FLOP_A_SECOND


def test_without_jitter_time_is_work_over_speed() -> None:
    fleet = Fleet([ComputeProfile("fast", 10.0, busy_watts=1.0), ONE_FLOP_A_SECOND], 4, 0)
    assert [fleet.seconds(device, 0, 20.0) for device in range(4)] == [2.0, 20.0, 2.0, 20.0]


def test_jitter_has_mean_one_and_its_spread() -> None:
    fleet = Fleet([ONE_FLOP_A_SECOND], 20, 1, jitter=0.5)
    times = np.array([fleet.seconds(device, step, 1.0) for device in range(20) for step in range(500)])
    # 10,000 draws: the mean of exp(sigma z - sigma^2/2) has standard error sqrt(exp(sigma^2) - 1) / 100 = 0.005, the
    # standard deviation of log T one of sigma / sqrt(2 * 10,000) = 0.0035; both bounds are over five of them.
    assert times.mean() == pytest.approx(1.0, abs=0.03)
    assert np.log(times).std() == pytest.approx(0.5, abs=0.02)


def test_stragglers_come_with_their_probability_and_slowdown() -> None:
    fleet = Fleet([ONE_FLOP_A_SECOND], 1, 2, straggler_probability=0.25, straggler_slowdown=8.0)
    times = np.array([fleet.seconds(0, step, 1.0) for step in range(4000)])
    assert set(times) == {1.0, 8.0}
    assert (times == 8.0).mean() == pytest.approx(0.25, abs=0.04)  # standard error 0.007


def test_a_draw_is_the_same_whenever_it_is_asked_for() -> None:
    forth, back = (NamedDraws(3, "anything", normal) for _ in range(2))
    steps = range(3 * BLOCK)
    assert [forth(5, n) for n in steps] == [back(5, n) for n in reversed(steps)][::-1]
    assert forth(5, 0) != forth(6, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"jitter": -0.1}, "jitter = -0.1: accepted: a finite number >= 0"),
        ({"straggler_probability": 1.5}, r"straggler_probability = 1.5: accepted: a number from 0 to 1"),
        ({"straggler_slowdown": 0.5}, "straggler_slowdown = 0.5: accepted: a finite number >= 1"),
    ],
)
def test_a_fleet_refuses_what_is_out_of_range(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fleet([ONE_FLOP_A_SECOND], 1, 0, **given)  # type: ignore[arg-type]


def test_energy_by_power_grows_with_time_and_energy_by_cycles_with_work() -> None:
    by_power = ComputeProfile("board", 1e9, busy_watts=11.0)
    by_cycles = ComputeProfile("phone", 1e9, clock_hz=2e9, cores=2)
    assert by_power.joules(1e9, 3.0) == 33.0
    # kappa f^2 = 4e-10 J a cycle, on two cores for the second that the work takes undisturbed: 4e9 cycles.
    assert by_cycles.joules(1e9, 3.0) == by_cycles.joules(1e9, 1.0) == pytest.approx(1.6)


def test_every_shipped_profile_says_where_its_figures_are_from() -> None:
    profiles = shipped_profiles()
    assert set(profiles) >= {
        "data-centre-gpu", "laptop", "flagship-phone", "mid-range-phone", "raspberry-pi-5", "microcontroller",
    }  # fmt: skip
    assert all(profile.source for profile in profiles.values())
    order = ["data-centre-gpu", "laptop", "flagship-phone", "mid-range-phone", "microcontroller"]
    speeds = [profiles[name].flops_per_s for name in order]
    assert speeds == sorted(speeds, reverse=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"flops_per_s": 0, "busy_watts": 1}, "'mine': flops_per_s = 0: accepted: a finite number > 0"),
        ({"flops_per_s": math.inf, "busy_watts": 1}, "flops_per_s = inf: accepted: a finite number > 0"),
        ({"flops_per_s": "fast", "busy_watts": 1}, "flops_per_s = 'fast': accepted"),
        ({"busy_watts": 1}, "flops_per_s: missing; accepted: a number > 0"),
        ({"flops_per_s": 1}, "busy_watts, clock_hz: neither given; accepted: one of the two"),
        ({"flops_per_s": 1, "busy_watts": 1, "clock_hz": 1}, "both given; accepted: one of the two"),
        ({"flops_per_s": 1, "busy_watts": -1}, "busy_watts = -1: accepted: a finite number >= 0"),
        ({"flops_per_s": 1, "clock_hz": 1, "cores": 0}, "cores = 0: accepted: an integer >= 1"),
        ({"flops": 1}, "flops = 1: unknown; accepted: flops_per_s, busy_watts"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_its_name(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        profile_from("mine", table)


def test_a_file_of_profiles_that_is_none_is_refused_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine = 3\n")
    with pytest.raises(ValueError, match=r"mine\.toml: mine = 3: accepted: a table"):
        read_profiles(path)
