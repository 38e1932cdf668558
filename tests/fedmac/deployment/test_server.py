"""The server: it lets in the keys that lie in its folder, and does not run without its gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from flwr.proto.node_pb2 import NodeInfo

from fedmac.deployment import server
from fedmac.deployment.control import Control, NoAnswer, Refused
from fedmac.deployment.folders import ServerFolder
from fedmac.deployment.foreground import Foreground
from fedmac.deployment.initialise import initialise
from fedmac.deployment.keys import registered_form
from fedmac.deployment.server import synchronise
from fedmac.engines.superlink import EngineError


class Registry(Control):
    """A SuperLink's list of nodes."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1", insecure=True)
        self.listed: dict[int, NodeInfo] = {}

    def nodes(self) -> list[NodeInfo]:
        return list(self.listed.values())

    def register(self, public_key: bytes, name: str) -> int:
        number = 7 + len(self.listed)
        self.listed[number] = NodeInfo(node_id=number, name=name, public_key=public_key, status="registered")
        return number

    def unregister(self, node: int) -> None:
        del self.listed[node]


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    initialise(tmp_path / "new", devices=3, hosts=("localhost",))
    return ServerFolder.load(tmp_path / "new")


def test_every_key_in_the_folder_is_registered_once(folder: ServerFolder) -> None:
    registry = Registry()
    assert len(synchronise(registry, folder)) == 3
    assert {node.name for node in registry.nodes()} == {"device-0", "device-1", "device-2"}
    assert {node.public_key for node in registry.nodes()} == {registered_form(p) for p in folder.device_keys().values()}
    assert synchronise(registry, folder) == []


def test_a_device_whose_key_is_deleted_is_unregistered(folder: ServerFolder) -> None:
    registry = Registry()
    synchronise(registry, folder)
    (folder.devices / "device-1.pub").unlink()
    assert synchronise(registry, folder) == [
        f"device-1 may take part no longer: its key is not in {folder.devices}",
    ]
    assert {node.name for node in registry.nodes()} == {"device-0", "device-2"}


def test_a_device_with_a_new_key_takes_the_old_one_s_place(folder: ServerFolder) -> None:
    registry = Registry()
    synchronise(registry, folder)
    (folder.devices / "device-2.pub").write_bytes((folder.devices / "device-1.pub").read_bytes())
    (folder.devices / "device-1.pub").unlink()
    synchronise(registry, folder)
    assert len(registry.nodes()) == 2


class Running:
    """A SuperLink's process that runs, or has ended."""

    def __init__(self, code: int | None = None) -> None:
        self.code = code

    def wait(self, _seconds: float) -> int | None:
        return self.code

    def last_words(self) -> str:
        return "last words"


class Answering(Registry):
    """A SuperLink that is up, behind its gate or not, or does not answer."""

    def __init__(self, *, up: bool = True, gated: bool = True) -> None:
        super().__init__()
        self.up, self.gated = up, gated

    def healthy(self) -> None:
        if not self.up:
            raise NoAnswer("127.0.0.1:1: nothing listens there")

    def gate(self, *, let_devices_in: bool = False) -> None:
        if not self.gated:
            raise Refused("127.0.0.1:1: Not Found (HTTP 404)", 404)


def wait(running: Running, control: Control) -> None:
    server._wait_until_behind_gate(cast(Foreground, running), control, 0.05)


def test_a_superlink_behind_its_gate_is_ready() -> None:
    wait(Running(), Answering())


@pytest.mark.parametrize(
    ("running", "control", "message"),
    [
        (Running(), Answering(gated=False), "is not behind its gate .* every machine could start code on it"),
        (Running(3), Answering(), r"exited with 3; it said:\nlast words"),
        (Running(), Answering(up=False), r"did not answer within 0\.05 s \(127\.0\.0\.1:1: nothing listens there\)"),
    ],
)
def test_a_superlink_that_is_not_as_it_must_be_is_not_used(running: Running, control: Control, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        wait(running, control)


def test_devices_are_told_as_they_come_and_go() -> None:
    said: list[str] = []
    registry = Registry()
    number = registry.register(b"key", "device-0")
    steps = iter(["online", "online", "offline", None])

    class Ends(Running):
        def wait(self, _seconds: float) -> int | None:
            status = next(steps)
            if status is None:
                return 1
            registry.listed[number].status = status
            return None

    with pytest.raises(EngineError, match="exited with 1"):
        server._watch(cast(Any, Ends()), registry, said.append)
    assert said == ["device-0 is online (1 in all)", "device-0 is offline (0 in all)"]
