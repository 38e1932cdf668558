"""When messages from device to device arrive, and what they cost."""

from __future__ import annotations

import pytest

from fedmac.clock.links import Link
from fedmac.clock.network import Network
from fedmac.clock.peer_network import PeerNetwork

LINK = Link(up_bps=100.0, down_bps=400.0, latency_s=0.5, send_watts=2.0, receive_watts=1.0)
SERVER = 3


def network(shared: bool = False, direct: float | None = None, server: float = 1000.0) -> PeerNetwork:
    return PeerNetwork([LINK] * SERVER, server, shared_medium=shared, latency_s=1.0, direct_bps=direct)


def there(net: PeerNetwork, source: int, to: int, bits: int, now: float) -> float:
    """When a message is there that nothing overtakes."""
    return net.receive(to, source, bits, net.send(source, to, bits, now))


def test_alone_a_message_takes_the_latency_and_the_slower_of_two_links() -> None:
    assert there(network(), 0, 1, 200, 3.0) == pytest.approx(3.0 + 1.0 + 200 / 100)


def test_a_senders_messages_go_one_after_the_other() -> None:
    net = network()
    assert there(net, 0, 1, 200, 0.0) == pytest.approx(3.0)
    assert there(net, 0, 2, 200, 0.0) == pytest.approx(5.0)


def test_a_receiver_takes_messages_one_after_the_other() -> None:
    net = PeerNetwork([Link(400.0, 100.0, 0.0)] * 3, 1.0, shared_medium=False, latency_s=0.0)
    assert [there(net, source, 2, 200, 0.0) for source in (0, 1)] == pytest.approx([2.0, 4.0])


def test_to_and_from_a_server_it_is_the_star_of_the_other_systems() -> None:
    star, net = Network([LINK] * SERVER, 50.0), network(server=50.0)
    down = [star.send(device, 200, 0.0) for device in range(SERVER)]
    assert [there(net, SERVER, device, 200, 0.0) for device in range(SERVER)] == pytest.approx(down)
    offered = [star.offered(device, 200, 20.0) for device in range(SERVER)]
    up = [star.receive(device, 200, time) for device, time in enumerate(offered)]
    assert [there(net, device, SERVER, 200, 20.0) for device in range(SERVER)] == pytest.approx(up)


def test_on_a_shared_medium_a_message_goes_up_and_down_and_others_wait() -> None:
    net = network(shared=True)
    on_air = 200 / 100 + 200 / 400
    assert there(net, 0, 1, 200, 0.0) == pytest.approx(on_air + 1.0)
    assert there(net, 2, 1, 200, 0.0) == pytest.approx(2 * on_air + 1.0)
    assert there(net, 0, SERVER, 200, 0.0) == pytest.approx(2 * on_air + 200 / 100 + 0.5)


def test_a_direct_link_is_taken_once() -> None:
    assert there(network(shared=True, direct=50.0), 0, 1, 200, 0.0) == pytest.approx(200 / 50 + 1.0)
    assert there(network(direct=50.0), 0, 1, 200, 0.0) == pytest.approx(200 / 50 + 1.0)


def test_direct_links_have_a_rate_for_each_pair() -> None:
    rates = [[0.0, 50.0, 25.0], [100.0, 0.0, 20.0], [10.0, 40.0, 0.0]]
    net = PeerNetwork([LINK] * SERVER, 1000.0, shared_medium=True, latency_s=1.0, direct_bps=rates)
    free = 0.0
    for source in range(SERVER):
        for to in range(SERVER):
            if source != to:
                free += 200 / rates[source][to]  # one after the other on the one medium
                assert there(net, source, to, 200, 0.0) == pytest.approx(free + 1.0)
                assert net.joules_sent(source, to, 200) == pytest.approx(2.0 * 200 / rates[source][to])
    assert there(net, 0, SERVER, 200, 0.0) == pytest.approx(free + 200 / 100 + 0.5)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([[1.0, 2.0]], r"direct_bps has shape \(1, 2\): accepted: a number, or \(3, 3\)"),
        ([[0, 1, 1], [1, 0, 0], [1, 1, 0]], r"direct_bps\[1, 2\] = 0.0: accepted: a number > 0"),
    ],
)
def test_rates_that_cannot_be_are_refused(rates: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PeerNetwork([LINK] * SERVER, 1.0, shared_medium=False, latency_s=0.0, direct_bps=rates)  # type: ignore[arg-type]


def test_devices_pay_for_their_own_interfaces_and_a_server_for_nothing() -> None:
    net = network()
    assert net.joules_sent(0, 1, 200) == pytest.approx(2.0 * 200 / 100)
    assert net.joules_received(0, 1, 200) == pytest.approx(1.0 * 200 / 400)
    assert net.joules_sent(SERVER, 1, 200) == net.joules_received(1, SERVER, 200) == 0.0


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("direct", "rate"), [(None, 400.0), (50.0, 50.0)])
def test_a_peer_receives_at_the_rate_of_the_link_that_it_pays_for(
    shared: bool, direct: float | None, rate: float
) -> None:
    net = network(shared, direct)
    assert net.receive_seconds(1, 0, 200) == pytest.approx(200 / rate)
    assert net.receive_seconds(1, 0, 200) * LINK.receive_watts == pytest.approx(net.joules_received(0, 1, 200))
    assert net.receive_seconds(1, SERVER, 200) == pytest.approx(200 / 400), "the server has no direct links"


@pytest.mark.parametrize("shared", [False, True])
def test_it_goes_on_from_its_state(shared: bool) -> None:
    net = network(shared)
    there(net, 0, 1, 200, 0.0)
    again = network(shared)
    again.restore(net.state())
    assert there(again, 0, 1, 200, 0.5) == there(net, 0, 1, 200, 0.5)


@pytest.mark.parametrize(
    ("given", "named"), [({"server": 0.0}, "server_bps = 0"), ({"direct": -1.0}, "direct_bps = -1")]
)
def test_links_without_a_rate_are_refused(given: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=rf"{named}.*: accepted: a number > 0 \(bit/s\)"):
        network(**given)
