"""`fedmac deploy init`: everything is there, secrets are secret, and nothing is overwritten."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedmac.deployment.device import DeviceOptions, command_of
from fedmac.deployment.folders import DeviceFolder, ServerFolder
from fedmac.deployment.initialise import initialise, new_key, renew
from fedmac.deployment.keys import registered_form
from fedmac.deployment.refusals import BadDeployment
from fedmac.record import FolderInTheWay, RecordError
from tests.fedmac.command_line import Command

repository = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "federation"
    initialise(folder, devices=3, hosts=("fed.example.org", "192.0.2.7"), port=9555)
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_each_machine_gets_its_own_folder(deployment: Path) -> None:
    assert {path.name for path in deployment.iterdir()} == {
        "README.md", "authority", "server", "device-0", "device-1", "device-2",
    }  # fmt: skip
    assert files(deployment / "authority") == {"ca.key", "ca.crt"}
    assert files(deployment / "device-1") == {
        "ca.crt", "device.key", "device.toml", "start.sh", "compose.yaml", "fedmac-device-1.service",
    }  # fmt: skip


def test_no_secret_is_in_two_places(deployment: Path) -> None:
    secrets = [path.read_bytes() for path in deployment.rglob("*.key")]
    assert len(secrets) == 5
    assert len(set(secrets)) == 5
    for path in deployment.rglob("*"):
        if path.is_file() and path.suffix != ".key":
            assert b"PRIVATE" not in path.read_bytes()


def test_only_the_owner_may_read_private_keys(deployment: Path) -> None:
    for path in deployment.rglob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_private_keys_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        initialise(tmp_path / "new", devices=1, hosts=("localhost",))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*.key")}
    assert modes == {0o600}


def test_the_server_knows_each_device_s_public_key(deployment: Path) -> None:
    server = ServerFolder.load(deployment)
    assert list(server.device_keys()) == [0, 1, 2]
    for device, public in server.device_keys().items():
        private = load_ssh_private_key((deployment / f"device-{device}/device.key").read_bytes(), None)
        assert private.public_key() == load_ssh_public_key(public.read_bytes())
        assert registered_form(public).startswith(b"-----BEGIN PUBLIC KEY-----")


def test_the_folders_say_where_the_server_is(deployment: Path) -> None:
    server, device = ServerFolder.load(deployment), DeviceFolder.load(deployment, 2)
    assert (server.hosts, server.port, server.listen) == (("fed.example.org", "192.0.2.7"), 9555, "0.0.0.0")
    assert server.local_address == "127.0.0.1:9555"
    assert (device.device, device.devices, device.superlink) == (2, 3, "fed.example.org:9555")
    assert DeviceFolder.load(deployment / "device-2") == device


def test_a_server_for_this_machine_alone_listens_to_it_alone(tmp_path: Path) -> None:
    initialise(tmp_path / "new", devices=1, hosts=("localhost",))
    assert ServerFolder.load(tmp_path / "new").listen == "127.0.0.1"


def test_a_server_with_an_ipv6_address_listens_there(tmp_path: Path) -> None:
    initialise(tmp_path / "new", devices=1, hosts=("2001:db8::7",))
    assert ServerFolder.load(tmp_path / "new").local_address == "[::1]:9443"
    assert DeviceFolder.load(tmp_path / "new", 0).superlink == "[2001:db8::7]:9443"


def test_the_device_s_command_proves_who_it_is_and_who_the_server_is(deployment: Path) -> None:
    command = command_of(DeviceFolder.load(deployment, 1), DeviceOptions(port=9100))
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--superlink"] == "fed.example.org:9555"
    assert given["--root-certificates"] == str(deployment / "device-1/ca.crt")
    assert given["--auth-supernode-private-key"] == str(deployment / "device-1/device.key")
    assert given["--node-config"] == "partition-id=1 num-partitions=3"
    assert "--insecure" not in command


def test_flower_reads_the_node_s_configuration_as_it_was_meant(deployment: Path, tmp_path: Path) -> None:
    from flwr.common.config import parse_config_args

    data = tmp_path / "my rows.csv"
    data.touch()
    command = command_of(DeviceFolder.load(deployment, 0), DeviceOptions(data=data, classes=5, profile="phone"))
    config = parse_config_args([command[command.index("--node-config") + 1]])
    assert config == {"partition-id": 0, "num-partitions": 3, "data": str(data), "classes": 5, "profile": "phone"}


def test_an_insecure_device_uses_neither_key_nor_certificate(deployment: Path) -> None:
    command = command_of(DeviceFolder.load(deployment, 1), DeviceOptions(insecure=True))
    assert command[-1] == "--insecure"
    assert not any(".key" in word or ".crt" in word for word in command)


def test_start_files_are_what_their_readers_accept(deployment: Path) -> None:
    for part, words in (("server", "server"), ("device-1", "device")):
        unit = configparser.ConfigParser(strict=True, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(deployment / part / f"fedmac-{part}.service")
        assert shlex.split(unit["Service"]["ExecStart"])[1:] == ["deploy", words, f"/opt/fedmac/{part}"]
        service = yaml.safe_load((deployment / part / "compose.yaml").read_text())["services"][part]
        assert service["command"] == ["deploy", words, "/deployment"]
        assert ("ports" in service) == (part == "server")
        script = deployment / part / "start.sh"
        assert os.access(script, os.X_OK)
        subprocess.run(["sh", "-n", script], check=True)


def test_an_image_gets_what_is_installed_and_no_key_that_was_made_in_the_repository() -> None:
    ignored, *taken = (repository / ".dockerignore").read_text().splitlines()[1:]
    let_in = {line.removeprefix("!") for line in taken if line.startswith("!")}
    assert ignored == "*"  # whatever name a deployment's folder has
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    facts = {"LICENSE", project["project"]["readme"], "constraints.txt", "pyproject.toml"}
    assert let_in == packages | facts
    assert all((repository / name).exists() for name in let_in)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FolderInTheWay, match="is not empty"):
        initialise(tmp_path, devices=1, hosts=("localhost",))
    assert files(tmp_path) == {"mine"}


def test_a_failed_init_leaves_no_half_of_a_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_facts: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedmac.deployment.initialise.read_me", full)
    with pytest.raises(RecordError, match="No space left on device"):
        initialise(tmp_path / "new", devices=1, hosts=("localhost",))
    assert files(tmp_path) == set()


def test_renewing_changes_the_server_s_key_and_certificate_and_nothing_else(tmp_path: Path) -> None:
    initialise(tmp_path / "new", devices=1, hosts=("localhost",))
    before = {name: (tmp_path / "new" / name).read_bytes() for name in files(tmp_path / "new")}
    renew(tmp_path / "new", days=30)
    after = {name: (tmp_path / "new" / name).read_bytes() for name in files(tmp_path / "new")}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"server/server.key", "server/server.pem"}
    assert stat.S_IMODE((tmp_path / "new/server/server.key").stat().st_mode) == 0o600


def test_only_who_has_the_authority_s_key_can_renew(deployment: Path) -> None:
    with pytest.raises(BadDeployment, match=r"ca\.key: not there"):
        renew(deployment / "server")


def test_a_new_key_never_takes_an_old_one_s_place(tmp_path: Path) -> None:
    public = new_key(tmp_path / "device.key")
    with pytest.raises(FolderInTheWay, match="is there"):
        new_key(tmp_path / "device.key")
    assert registered_form(public)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "0"], "--devices 0: accepted: 1 to 100000"),
        (["--port", "70000"], "--port 70000: accepted: 1 to 65535"),
        (["--host", "a b"], "--host 'a b': accepted: a DNS name or an IP address"),
        (["--host", ","], "--host: missing"),
        (["--valid-days", "0"], "--valid-days 0: accepted: an integer of at least 1"),
    ],
)
def test_bad_input_to_init_names_the_field_and_writes_nothing(
    fedmac: Command, tmp_path: Path, words: list[str], message: str
) -> None:
    ended = fedmac("deploy", "init", "new", *words)
    assert ended.code == 2
    assert message in ended.err
    assert files(tmp_path) == set()


def test_init_from_the_command_line(fedmac: Command, tmp_path: Path) -> None:
    ended = fedmac("deploy", "init", "new", "--devices", "2", "--host", "fed.example.org, 192.0.2.7", "--port", "9000")
    assert ended.code == 0
    assert ServerFolder.load(tmp_path / "new").hosts == ("fed.example.org", "192.0.2.7")
    assert fedmac("deploy", "init", "new").code == 2
    assert json.dumps("data.devices = 2")[1:-1] in (tmp_path / "new/README.md").read_text()
