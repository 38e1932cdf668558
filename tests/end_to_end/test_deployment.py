"""A federation of real processes over TLS with registered keys: the same figures, and nobody gets in uninvited."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedmac
from fedmac.deployment.control import Control, NoAnswer
from fedmac.deployment.foreground import foreground
from fedmac.deployment.initialise import initialise, new_key
from fedmac.engines.superlink import free_port, script
from fedmac.record import MEASURED
from tests.end_to_end.deployed_run import finished, records, start_run
from tests.end_to_end.federation import Federation, Part, wait_for, workers_of

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc"),
]

SCENARIO = """
name = "deployed"
rounds = 2

[data]
source = "digits"
devices = 3
partition = "dirichlet"
alpha = 1.0

[model]
name = "mlp"
hidden = [16]

[training]
learning_rate = 0.1
local_epochs = 1

[uplink]
code = "random-linear"
ratio = 0.2

[power_control]
name = "minimum-mse"

[channel]
fading = "rayleigh"
noise_power = 0.01

[engine]
nodes_timeout_s = 60
"""

# Measured seconds are nobody's to repeat; the error of the mean update needs the plain updates, which a server that is
# reached by messages never sees.
NOT_SHARED = {*MEASURED, "mse_measured", "mse_predicted"}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A server and three devices."""
    federation = Federation(tmp_path_factory.mktemp("federation"), devices=3)
    try:
        federation.start_server()
        for device in range(3):
            federation.start_device(device)
        federation.wait_until_online(3)
        yield federation
    finally:
        federation.stop()


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scenario") / "deployed.toml"
    file.write_text(SCENARIO)
    return file


def test_the_same_scenario_has_the_same_figures_in_this_process_and_on_three_devices_over_tls(
    federation: Federation, scenario: Path, tmp_path: Path
) -> None:
    fedmac.run(scenario, out=tmp_path / "local", engine="local", workers=1, report=False)
    code, said = finished(start_run(scenario, federation, tmp_path / "deployed"))
    assert code == 0, said
    local, deployed = records(tmp_path / "local"), records(tmp_path / "deployed")
    assert [record["round"] for record in deployed] == [0, 1, 2]
    for here, there in zip(local, deployed, strict=True):
        # The partition: which devices there are and how many rows each of them trains on.
        for name in ("devices", "weights", "training_examples", "participants", "failures"):
            assert there.get(name) == here.get(name), name
        wire = {"wire_down_bytes", "wire_up_bytes"}  # in one process nothing is sent
        assert there.keys() - wire == here.keys()
        # float32 updates are added up before coding (local) or coded and then added up (messages).
        for name in there.keys() - NOT_SHARED - {"failures"}:
            if isinstance(there[name], float | list):
                np.testing.assert_allclose(there[name], here[name], rtol=1e-5, atol=1e-8, err_msg=name)
            else:
                assert there[name] == here[name], name
    sizes = [deployed[-1][f"wire_{way}_bytes"] for way in ("down", "up")]
    assert min(sizes) > 0
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("local", "deployed")]
    for name, array in models[0].items():
        np.testing.assert_allclose(models[1][name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    summary = json.loads((tmp_path / "deployed/summary.json").read_text())
    assert (summary["engine"], summary["interrupted"]) == ("deployment", False)
    assert "flwr-serverapp" not in said
    assert (tmp_path / "deployed/flower.log").stat().st_size > 0


def test_a_device_with_a_key_that_is_not_registered_is_refused(federation: Federation, tmp_path: Path) -> None:
    stranger = tmp_path / "device-0"
    shutil.copytree(federation.folder / "device-0", stranger, ignore=shutil.ignore_patterns("state", "device.key"))
    new_key(stranger / "device.key")
    part = Part(tmp_path / "stranger.log", "device", str(stranger))
    assert part.wait(120) == 1
    assert "the server does not know this device's key" in part.said()


def refused(home: Path, *words: str) -> str:
    """What a SuperNode says that does not get in."""
    command = [script("flower-supernode"), "--port", str(free_port()), *words]
    with foreground(command, home, lambda _line: None) as node:
        assert node.wait(90) == 1, node.last_words()
        return node.last_words()


def test_a_device_without_a_key_is_refused(federation: Federation, tmp_path: Path) -> None:
    authority = str(federation.folder / "device-0/ca.crt")
    said = refused(tmp_path, "--superlink", federation.address, "--root-certificates", authority)
    assert "must be registered" in said


def test_a_device_does_not_talk_to_a_server_of_another_authority(federation: Federation, tmp_path: Path) -> None:
    initialise(tmp_path / "other", devices=1, hosts=("localhost",))
    wary = tmp_path / "device-0"
    shutil.copytree(federation.folder / "device-0", wary, ignore=shutil.ignore_patterns("state"))
    shutil.copy(tmp_path / "other/authority/ca.crt", wary / "ca.crt")
    part = Part(tmp_path / "wary.log", "device", str(wary))
    assert part.wait(120) == 1
    assert "the server's certificate is not accepted" in part.said()


def test_a_plain_connection_is_refused(federation: Federation) -> None:
    with pytest.raises(NoAnswer, match="no HTTP answer"):
        Control(federation.address, insecure=True).nodes()
    host, _, port = federation.address.partition(":")
    plain = http.client.HTTPConnection(host, int(port), timeout=10)  # as a device's, which over TLS is answered 401
    with closing(plain):
        plain.request("POST", "/v1/fleet/pull-messages", b"", {"content-type": "application/protobuf"})
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.getresponse()


def test_a_supernode_with_a_key_does_not_start_without_tls(federation: Federation, tmp_path: Path) -> None:
    key = str(federation.folder / "device-0/device.key")
    said = refused(tmp_path, "--superlink", federation.address, "--insecure", "--auth-supernode-private-key", key)
    assert "Insecure connection is enabled, but the SuperNode's private key" in said


def own_address() -> str | None:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/control/start-run", 403),
        ("/v1/control/register-node", 403),
        ("/v1/control/list-runs", 403),
        ("/v1/runtime/acquire-task", 403),
        ("/v1/fleet/pull-messages", 401),  # let in, and asked for its key
        ("/health", 405),  # let in; POST is not what it answers
    ],
)
def test_whoever_reaches_the_port_can_neither_start_code_nor_register_a_key(
    federation: Federation, path: str, status: int
) -> None:
    if (afar := own_address()) is None:
        pytest.skip("this machine has no address but loopback")
    tls, (host, _, port) = federation.control.tls, federation.address.partition(":")
    # Sent from the machine's other address to loopback, the request does not look as if it came from this machine.
    link = http.client.HTTPSConnection(host, int(port), timeout=10, context=tls, source_address=(afar, 0))
    try:
        link.request("POST", path, b"", {"content-type": "application/protobuf", "accept": "application/protobuf"})
        assert link.getresponse().status == status
    finally:
        link.close()


def test_missing_devices_are_named_before_anything_is_sent(
    federation: Federation, scenario: Path, tmp_path: Path
) -> None:
    more = ("--set", "data.devices=4", "--set", "engine.nodes_timeout_s=1")
    code, said = finished(start_run(scenario, federation, tmp_path / "out", *more), 60)
    assert code == 1
    assert "data.devices = 4, but 3 devices are online" in said
    assert "(missing: device-3)" in said
    assert not (tmp_path / "out").exists()
    assert federation.control.unfinished() == []


def test_ctrl_c_stops_the_run_and_leaves_server_and_devices(
    federation: Federation, scenario: Path, tmp_path: Path
) -> None:
    run = start_run(scenario, federation, tmp_path / "out", "--set", "rounds=50")
    wait_for(lambda: len(records(tmp_path / "out")) > 0 or run.poll() is not None, 150, "round 0")
    assert len(federation.control.unfinished(out=str(tmp_path / "out"))) == 1
    run.send_signal(signal.SIGINT)
    code, said = finished(run, 40)
    assert code == 1
    assert "interrupted; what was recorded so far is in" in said
    assert federation.control.unfinished() == []
    assert federation.online() == ["device-0", "device-1", "device-2"]


faults = pytest.mark.skipif(
    "FEDMAC_FAULTS" not in os.environ, reason="minutes of waiting for Flower's own time-outs: make faults"
)


@faults
def test_a_device_that_is_killed_in_a_round_and_comes_back_takes_part_again(
    federation: Federation, scenario: Path, tmp_path: Path
) -> None:
    more = ("--set", "rounds=4", "--set", "engine.nodes_timeout_s=240")
    run = start_run(scenario, federation, tmp_path / "out", *more)
    wait_for(lambda: len(records(tmp_path / "out")) == 2 or run.poll() is not None, 240, "round 1")
    wait_for(lambda: bool(workers_of(federation.devices[1])) or run.poll() is not None, 60, "a process that trains")
    federation.devices[1].kill()
    federation.wait_until_online(2)  # Flower gives a node up when two heartbeats of 30 s are missing
    federation.start_device(1)
    code, said = finished(run)
    assert code == 0, said
    rounds = records(tmp_path / "out")
    assert [record["round"] for record in rounds] == [0, 1, 2, 3, 4]
    assert [failure["device"] for failure in rounds[2]["failures"]] == [1]
    assert rounds[2]["participants"] == 2
    assert [rounds[number]["participants"] for number in (3, 4)] == [3, 3]


@faults
def test_a_server_that_is_killed_ends_the_run_with_advice_and_resume_finishes_it(
    federation: Federation, scenario: Path, tmp_path: Path
) -> None:
    run = start_run(scenario, federation, tmp_path / "out", "--set", "rounds=3")
    wait_for(lambda: len(records(tmp_path / "out")) == 2 or run.poll() is not None, 150, "round 1")
    assert federation.server is not None
    federation.server.kill()
    code, said = finished(run, 90)
    assert code == 1
    assert "--resume finishes the run once the server is back" in said
    federation.start_server()
    federation.wait_until_online(3)
    code, said = finished(start_run(scenario, federation, tmp_path / "out", "--set", "rounds=3", "--resume"))
    assert code == 0, said
    assert [record["round"] for record in records(tmp_path / "out")] == [0, 1, 2, 3]


@faults
def test_a_device_that_stands_still_is_left_out_when_the_round_s_time_is_over(
    federation: Federation, scenario: Path, tmp_path: Path
) -> None:
    run = start_run(scenario, federation, tmp_path / "out", "--set", "engine.round_timeout_s=60")
    wait_for(lambda: len(records(tmp_path / "out")) == 2 or run.poll() is not None, 240, "round 1")
    still: set[int] = set()

    def round_is_over() -> bool:
        # The SuperNode goes on to answer heartbeats, and starts the work anew after half a minute: no use either.
        for pid in set(workers_of(federation.devices[2])) - still:
            os.kill(pid, signal.SIGSTOP)
            still.add(pid)
        return len(records(tmp_path / "out")) > 2 or run.poll() is not None

    try:
        wait_for(round_is_over, 120, "round 2")
    finally:
        for pid in still:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    code, said = finished(run)
    assert code == 0, said
    assert 2 in [failure["device"] for failure in records(tmp_path / "out")[2]["failures"]]


@faults
def test_a_device_that_forges_flower_s_protocol_is_still_no_more_than_a_device_that_is_not_heard(
    federation: Federation, scenario: Path, tmp_path: Path
) -> None:
    federation.devices[2].interrupt()
    federation.devices[2].wait(60)
    federation.start_device(2, "-m", "tests.end_to_end.forging_device", str(federation.folder), "2")
    federation.wait_until_online(3)
    try:
        code, said = finished(start_run(scenario, federation, tmp_path / "out"))
    finally:
        federation.devices[2].interrupt()  # it says good-bye: a node that is believed to be there cannot come again
        federation.devices[2].wait(60)
        federation.start_device(2)
        federation.wait_until_online(3)
    assert code == 0, said
    rounds = records(tmp_path / "out")[1:]
    assert [record["devices"] for record in rounds] == [[0, 1], [0, 1]]
    failures = [(one["device"], one["kind"]) for record in rounds for one in record["failures"]]
    assert failures == [(2, "unreadable"), (2, "unreadable")]
    assert rounds[-1]["bad_replies"] == {"2": {"unreadable": 2}}


@faults
def test_error_feedback_goes_on_after_the_server_was_killed(federation: Federation, tmp_path: Path) -> None:
    feedback = SCENARIO.replace("ratio = 0.2", 'ratio = 0.2\ndecoder = "projection"\nerror_feedback = true')
    scenario = tmp_path / "feedback.toml"
    scenario.write_text(feedback.replace("rounds = 2", "rounds = 4"))
    fedmac.run(scenario, out=tmp_path / "local", engine="local", workers=1, report=False)
    run = start_run(scenario, federation, tmp_path / "out")
    wait_for(lambda: len(records(tmp_path / "out")) == 3 or run.poll() is not None, 240, "round 2")
    assert federation.server is not None
    federation.server.kill()
    code, said = finished(run, 90)
    assert code == 1, said
    federation.start_server()
    federation.wait_until_online(3)
    code, said = finished(start_run(scenario, federation, tmp_path / "out", "--resume"))
    assert code == 0, said
    local, deployed = records(tmp_path / "local"), records(tmp_path / "out")
    assert [record["round"] for record in deployed] == [0, 1, 2, 3, 4]
    # Messages in both engines, as the code keeps a residual: what is added up is the same to float32 rounding.
    for here, there in zip(local[1:], deployed[1:], strict=True):
        np.testing.assert_allclose(there["update_norms"], here["update_norms"], rtol=1e-5)
