"""The folders of a deployment: what they say is checked before anything starts."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmac.deployment.device import DeviceOptions, command_of, run_device
from fedmac.deployment.folders import DeviceFolder, ServerFolder, check_address, join_address
from fedmac.deployment.initialise import initialise
from fedmac.deployment.keys import registered_form
from fedmac.deployment.refusals import BadDeployment
from fedmac.deployment.server import serve
from fedmac.engines.deployment import superlink_at
from fedmac.scenario_errors import ScenarioError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "federation"
    initialise(folder, devices=2, hosts=("localhost",), port=9666)
    return folder


@pytest.fixture
def deployment(made: Path, tmp_path: Path) -> Path:
    """A deployment of one's own to spoil."""
    return Path(shutil.copytree(made, tmp_path / "federation"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port = 9666", "", "port is missing"),
        ("port = 9666", 'port = "9666"', r"port = '9666': accepted: a int"),
        ("port = 9666", "port = 0", "port = 0: accepted: 1 to 65535"),
        ("port = 9666", "port = 9666\nprot = 1", "prot: no such key; accepted: hosts, port, listen"),
        ("port = 9666", "port =", "not valid TOML"),
        ('"localhost",', "", r"hosts = \[\]: accepted"),
    ],
)
def test_a_spoiled_server_file_is_refused_by_key(deployment: Path, old: str, new: str, message: str) -> None:
    file = deployment / "server/server.toml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(BadDeployment, match=rf"server\.toml: {message}"):
        ServerFolder.load(deployment)


def test_a_folder_that_is_no_deployment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDeployment, match=r"neither server\.toml nor server/server\.toml"):
        ServerFolder.load(tmp_path)
    with pytest.raises(BadDeployment, match=r"neither device\.toml nor device-3/device\.toml"):
        DeviceFolder.load(tmp_path, 3)


def test_a_device_s_folder_is_not_another_device_s(deployment: Path) -> None:
    with pytest.raises(BadDeployment, match=r"--id 1: .*device-0 is of device 0; accepted: that number"):
        DeviceFolder.load(deployment / "device-0", 1)


def test_the_whole_deployment_s_folder_needs_a_device_number_that_is_in_it(deployment: Path) -> None:
    with pytest.raises(BadDeployment, match=r"^--id: missing; accepted, .*: 0, 1$"):
        DeviceFolder.load(deployment)
    with pytest.raises(BadDeployment, match=r"^--id 7: no such device; accepted, .*: 0, 1$"):
        DeviceFolder.load(deployment, 7)


def test_a_device_number_beyond_the_federation_is_refused(deployment: Path) -> None:
    file = deployment / "device-1/device.toml"
    file.write_text(file.read_text().replace("device = 1", "device = 2"))
    with pytest.raises(BadDeployment, match=r"device = 2: accepted: 0 to devices - 1 = 1"):
        DeviceFolder.load(deployment / "device-1")


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":9443", "host:abc", "host:0", "host:65536", "http://h:1", "::1:9"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadDeployment, match=r"--superlink .* accepted: "):
        check_address(address)


@pytest.mark.parametrize("address", ["localhost:9443", "192.0.2.7:1", "[::1]:9443"])
def test_addresses_are_accepted(address: str) -> None:
    assert check_address(address) == address


def test_an_ipv6_address_gets_brackets() -> None:
    assert check_address(join_address("2001:db8::7", 9443)) == "[2001:db8::7]:9443"


STARTS = {
    "server": lambda folder: serve(ServerFolder.load(folder)),
    "device": lambda folder: run_device(DeviceFolder.load(folder, 0), DeviceOptions()),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_private_key_that_others_may_read_starts_nothing(deployment: Path, start: Callable[[Path], None]) -> None:
    for key in deployment.rglob("*.key"):
        key.chmod(0o640)
    with pytest.raises(BadDeployment, match=r"mode is 0640, others may read it; accepted: 0600"):
        start(deployment)


def test_a_port_that_is_taken_starts_nothing(deployment: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = deployment / "server/server.toml"
        file.write_text(file.read_text().replace("9666", str(port)))
        with pytest.raises(BadDeployment, match=rf"port = {port}: Address already in use .* accepted: a free port"):
            serve(ServerFolder.load(deployment))


def test_a_server_without_devices_starts_nothing(deployment: Path) -> None:
    shutil.rmtree(deployment / "server/devices")
    with pytest.raises(BadDeployment, match="no device's key in it"):
        serve(ServerFolder.load(deployment))


ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ9nWmS3y8mZ0XxVbqk7ZcQ3qkqI0vVgD8r0CwH3sGq"


@pytest.mark.parametrize("content", ["", "hello", ED25519])
def test_what_is_no_device_s_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "device-0.pub").write_text(content)
    with pytest.raises(BadDeployment, match=r"device-0\.pub: .* accepted: the public key of a device"):
        registered_form(tmp_path / "device-0.pub")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DeviceOptions(superlink="nowhere"), "--superlink 'nowhere': accepted: host:port"),
        (DeviceOptions(port=99999), "--port 99999: accepted"),
        (DeviceOptions(data=Path("none.csv")), "--data 'none.csv': no such file"),
        (DeviceOptions(profile="fone"), "--profile 'fone': unknown; accepted: full, phone"),
        (DeviceOptions(classes=3), "--classes 3: accepted: at least 1, with --data"),
    ],
)
def test_a_device_s_options_are_checked_before_it_starts(made: Path, options: DeviceOptions, message: str) -> None:
    with pytest.raises(BadDeployment, match=message):
        command_of(DeviceFolder.load(made, 0), options)


def test_a_superlink_is_named_by_a_folder_or_an_address(made: Path) -> None:
    by_folder = superlink_at(str(made))
    assert (by_folder.host, by_folder.port, by_folder.tls is not None) == ("127.0.0.1", 9666, True)
    assert superlink_at(str(made / "server")).address == by_folder.address
    by_address = superlink_at("fed.example.org:9443")
    assert (by_address.host, by_address.port, by_address.tls is not None) == ("fed.example.org", 9443, True)


def test_an_unencrypted_superlink_must_be_asked_for_by_name() -> None:
    assert superlink_at("localhost:9443").tls is not None
    assert superlink_at("https://localhost:9443").tls is not None
    assert superlink_at("http://localhost:9443").tls is None


@pytest.mark.parametrize("where", ["", "nowhere", "/no/such/folder", "ftp://a:1", "http://a"])
def test_what_names_no_superlink_is_refused_by_its_key(where: str) -> None:
    with pytest.raises(ScenarioError, match=r"engine\.superlink = .*: accepted: a folder with server\.toml"):
        superlink_at(where)


def test_a_path_that_flower_cannot_carry_is_refused(made: Path, tmp_path: Path) -> None:
    data = tmp_path / 'my "rows".csv'
    data.touch()
    with pytest.raises(BadDeployment, match=r"--data .*: accepted: no quotes, backslashes or line breaks"):
        command_of(DeviceFolder.load(made, 0), DeviceOptions(data=data))
