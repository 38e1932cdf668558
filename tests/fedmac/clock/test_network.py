"""When messages arrive at a server that all devices share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmac.clock.links import LINK_KINDS, Link, changed
from fedmac.clock.network import Network


def sent_up(network: Network, device: int, bits: float, ready: float) -> float:
    return network.receive(device, bits, network.offered(device, bits, ready))


@given(st.floats(1e3, 1e9), st.floats(1e3, 1e9), st.floats(0, 1e6), st.floats(0, 1))
def test_a_lone_message_takes_the_latency_and_its_bits_over_the_slower_rate(
    rate: float, server: float, bits: float, latency: float
) -> None:
    link = Link(rate, rate, latency)
    alone = latency + bits / min(rate, server)
    assert sent_up(Network([link], server), 0, bits, 3.0) == pytest.approx(3.0 + alone)
    assert Network([link], server).send(0, bits, 3.0) == pytest.approx(3.0 + alone)


@given(st.floats(1e3, 1e9), st.floats(1e3, 1e9), st.floats(0, 1e6), st.booleans())
def test_a_device_receives_at_its_own_rate_and_draws_power_for_so_long(
    rate: float, server: float, bits: float, shared: bool
) -> None:
    network = Network([Link(rate / 3, rate, 0.5, receive_watts=2.0)], server, shared_medium=shared)
    seconds = network.receive_seconds(0, bits)
    assert network.joules(0, received=bits) == pytest.approx(2.0 * seconds)
    # Of the time from the server to the device, at least the latency is not the device's.
    assert seconds == pytest.approx(bits / rate)
    assert seconds <= (network.send(0, bits, 3.0) - 3.0 - 0.5) * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("own_rate", [1e6, 4e6])
def test_p_messages_at_once_take_p_times_the_servers_share(own_rate: float) -> None:
    p, bits, server = 16, 1e6, 1e6
    network = Network([Link(own_rate, own_rate, 0.0)] * p, server)
    arrivals = [sent_up(network, device, bits, 0.0) for device in range(p)]
    assert np.allclose(arrivals, np.arange(1, p + 1) * bits / server)
    reached = [network.send(device, bits, 0.0) for device in range(p)]
    assert np.allclose(reached, np.arange(1, p + 1) * bits / server)


def test_slow_devices_behind_a_fast_server_do_not_wait_for_each_other() -> None:
    network = Network([Link(1e6, 1e6, 0.01)] * 4, 1e12)
    arrivals = [sent_up(network, device, 1e6, 0.0) for device in range(4)]
    assert np.allclose(arrivals, 1.01, atol=1e-5)  # a microsecond each at the server


def test_on_a_shared_medium_messages_take_turns_whichever_way_they_go() -> None:
    network = Network([Link(1e6, 1e6, 0.0), Link(2e6, 2e6, 0.0)], 1e12, shared_medium=True)
    assert network.send(0, 1e6, 0.0) == 1.0
    assert sent_up(network, 1, 1e6, 0.0) == 1.5
    assert network.send(1, 1e6, 0.0) == 2.0


def test_energy_is_power_over_the_time_on_the_link() -> None:
    network = Network([Link(1e6, 2e6, 0.1, send_watts=2.0, receive_watts=1.0)])
    assert network.joules(0, sent=3e6) == 6.0
    assert network.joules(0, received=4e6) == 2.0


def test_every_kind_of_link_says_where_its_figures_are_from() -> None:
    assert all(kind.source for kind in LINK_KINDS.values())
    # Huang et al.: 438.39 mW/Mbps * 6 Mbps + 1288.04 mW.
    assert LINK_KINDS["lte"].link.send_watts == pytest.approx(3.918, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"up_bps": 0.0}, "up_bps = 0.0: accepted: a number > 0"),
        ({"latency_s": -1.0}, "latency_s = -1.0: accepted: a finite number >= 0"),
    ],
)
def test_a_link_that_cannot_be_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(LINK_KINDS["wifi"].link, **changes)


def test_a_server_without_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="server_bps = 0: accepted: a number > 0"):
        Network([], 0)
