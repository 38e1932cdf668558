"""Asking a SuperLink: what goes wrong on the way is told in words, and nothing waits for ever."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.proto import control_pb2 as messages
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run, RunStatus

from fedmac.deployment.certificates import new_authority, new_server_certificate
from fedmac.deployment.control import Control, NoAnswer, Refused
from fedmac.engines import deployment
from fedmac.engines.deployment import answering as server_asked
from fedmac.engines.deployment import devices_online, end_orphan, run_on_superlink, wait_for_devices
from fedmac.engines.superlink import EngineError
from fedmac.lock import held
from fedmac.record import RecordError, writing

Answers = dict[str, tuple[int, bytes]]


@contextmanager
def answering(answers: Answers, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """An HTTP server that answers by path; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answers.get(self.path, (404, b"{}"))
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def control(address: str, seconds: float = 5.0) -> Control:
    return Control(address, insecure=True, seconds=seconds)


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """An authority's certificate, and the TLS of a server with a certificate by it."""
    authority_key, authority = new_authority("Test")
    key, certificate = new_server_certificate(authority_key, authority, ("localhost",))
    for name, content in (("ca.crt", authority), ("server.pem", certificate), ("server.key", key)):
        (tmp_path / name).write_bytes(content)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    return tmp_path / "ca.crt", tls


def test_nobody_at_the_address_is_said_to_be_nobody() -> None:
    with answering({}) as address:
        pass
    with pytest.raises(NoAnswer, match=rf"{address}: nothing listens there"):
        control(address).healthy()


def test_a_certificate_by_the_authority_is_accepted(certificates: tuple[Path, ssl.SSLContext]) -> None:
    authority, tls = certificates
    with answering({"/v1/control/list-nodes": (200, nodes("device-0"))}, tls) as address:
        assert [node.name for node in Control(address, authority=authority).nodes()] == ["device-0"]


def test_a_certificate_by_another_authority_is_refused(
    certificates: tuple[Path, ssl.SSLContext], tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(new_authority("Other")[1])
    with answering({"/health": (200, b"")}, certificates[1]) as address:
        for trusted in (other, None):  # None: the system's authorities
            with pytest.raises(NoAnswer, match="its certificate is not accepted") as refusal:
                Control(address, authority=trusted).healthy()
            assert ("accepted: the server's folder" in str(refusal.value)) == (trusted is None)


def test_plain_and_encrypted_do_not_meet(certificates: tuple[Path, ssl.SSLContext]) -> None:
    authority, tls = certificates
    with answering({"/health": (200, b"")}, tls) as address, pytest.raises(NoAnswer, match="does it speak TLS"):
        control(address).healthy()
    with (
        answering({"/health": (200, b"")}) as address,
        pytest.raises(NoAnswer, match="with --insecure is at http://127"),
    ):
        Control(address, authority=authority).healthy()


def test_a_server_that_is_silent_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
            control(address, seconds=0.2).healthy()


def test_a_refusal_comes_with_its_reason_and_status() -> None:
    answers = {"/v1/control/list-nodes": (403, b"only the server's own machine may ask this")}
    with answering(answers) as address, pytest.raises(Refused, match=r"own machine may ask this .*403") as refused:
        control(address).nodes()
    assert refused.value.status == 403


def test_an_answer_that_is_no_superlink_s_is_no_answer() -> None:
    with (
        answering({"/v1/control/list-nodes": (200, b"<html>")}) as address,
        pytest.raises(NoAnswer, match="no SuperLink"),
    ):
        control(address).nodes()


def test_a_superlink_without_a_gate_is_told_apart() -> None:
    with answering({"/health": (200, b"")}) as address:
        control(address).healthy()
        with pytest.raises(Refused):
            control(address).gate()


def nodes(*online: str, offline: tuple[str, ...] = (), gone: tuple[str, ...] = ()) -> bytes:
    rows = [("online", online), ("offline", offline), ("unregistered", gone)]
    listed = [
        NodeInfo(node_id=i, name=name, status=status) for status, names in rows for i, name in enumerate(names, 7)
    ]
    return messages.ListNodesResponse(nodes_info=listed).SerializeToString()


def test_enough_devices_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is online is asked until they are as many, and not once more; who is offline or gone does not count."""
    monkeypatch.setattr(deployment, "_POLL_SECONDS", 0.01)
    few = nodes("device-0", offline=("device-1",), gone=("device-2",))
    enough = nodes("device-0", "device-1", gone=("device-2",))
    coming = iter([few, few, enough, nodes()])
    link = Recorded()
    monkeypatch.setattr(link, "nodes", lambda: messages.ListNodesResponse.FromString(next(coming)).nodes_info)
    with pytest.warns(UserWarning, match="1 of 2 devices online"):
        wait_for_devices(link, 2, 60.0)
    assert list(coming) == [nodes()]


def test_missing_devices_are_named() -> None:
    content = nodes("device-1", offline=("device-0", "device-2"))
    with answering({"/v1/control/list-nodes": (200, content)}) as address, pytest.raises(EngineError) as missing:
        wait_for_devices(control(address), 3, 0.0)
    message = str(missing.value)
    assert message.startswith("data.devices = 3, but 1 device is online")
    assert "(missing: device-0, device-2)" in message
    assert "engine.nodes_timeout_s = 0" in message


def test_who_waits_for_devices_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_POLL_SECONDS", 0.01)
    content = nodes("device-1", offline=("device-0",))
    with (
        answering({"/v1/control/list-nodes": (200, content)}) as address,
        pytest.warns(UserWarning, match=r"1 of 2 devices online \(device-1\); waiting up to 0\.2 s") as said,
    ):
        assert devices_online(control(address), 2, 0.2) == ["device-1"]
    assert len(said) == 1


def test_more_devices_than_the_scenario_has_are_refused_too() -> None:
    answers = {"/v1/control/list-nodes": (200, nodes("device-0", "device-1"))}
    said = r"devices = 1, but 2 devices .* \(device-0, device-1\)"
    with answering(answers) as address, pytest.raises(EngineError, match=said):
        wait_for_devices(control(address), 1, 0.0)


def test_a_superlink_that_forgets_the_run_or_goes_away_ends_it_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(deployment, "_POLL_SECONDS", 0.05)
    answers = {"/v1/control/list-runs": (200, messages.ListRunsResponse().SerializeToString())}
    said = r"knows run 5 no longer: it was started anew; --resume"
    with answering(answers) as address, pytest.raises(EngineError, match=said):
        deployment._follow(control(address), 5, lambda: None)
    said = r"no answer for 0\.2 s .* nothing listens there; .* --resume finishes the run"
    with pytest.raises(EngineError, match=said):
        deployment._follow(control(address), 5, lambda: None)


def test_a_run_that_the_server_does_not_begin_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_BEGIN_SECONDS", 0.2)
    monkeypatch.setattr(deployment, "_POLL_SECONDS", 0.05)
    waiting = Recorded("pending")
    with pytest.raises(EngineError, match=r"run 4 is pending for 0\.2 s; start the server again, .* --resume"):
        deployment._follow(waiting, 4, lambda: None)
    steps = iter(["pending", "running", *["running"] * 8, "finished:completed"])
    begun = Recorded()
    monkeypatch.setattr(begun, "status", lambda _run: (next(steps), ""))
    assert deployment._follow(begun, 4, lambda: None) == ("finished:completed", "")


class Recorded(Control):
    """A SuperLink that runs whatever it is given until it is stopped."""

    def __init__(self, status: str = "running", details: str = "") -> None:
        super().__init__("127.0.0.1:1", insecure=True)
        self.now, self.details, self.told = status, details, list[str]()
        self.out = "/out"

    def nodes(self) -> list[NodeInfo]:
        return list(messages.ListNodesResponse.FromString(nodes("device-0")).nodes_info)

    def unfinished(self, **config: Any) -> list[int]:
        return [3] if config == {"out": self.out} else []

    def start(self, app: Path, config: Any) -> int:
        self.told.append("start")
        return 4

    def stop(self, run: int) -> None:
        self.told.append(f"stop {run}")
        self.now = "finished:stopped" if run == 4 else self.now

    def status(self, run: int | None = None) -> tuple[str, str]:
        return ("finished:stopped" if run == 3 else self.now), self.details

    def log(self, run: int) -> Iterator[str]:
        yield "Traceback (most recent call last):\n  File x\nValueError: the server gave up\n"


def run_with(link: Control, folder: Path, on_poll: Any = lambda: None) -> None:
    config = {"out": "/out"}
    run_on_superlink(folder, config, link, devices=1, nodes_timeout=1.0, log=folder / "run.log", on_poll=on_poll)


def test_ctrl_c_stops_the_run_and_leaves_the_superlink(tmp_path: Path) -> None:
    link = Recorded()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(link, tmp_path, interrupt)
    assert link.told == ["start", "stop 4"]


def test_a_run_that_goes_on_in_a_folder_for_a_killed_command_is_stopped(tmp_path: Path) -> None:
    link = Recorded()
    link.out = str(tmp_path)
    end_orphan(link, tmp_path)
    assert link.told == ["stop 3"]
    end_orphan(link, tmp_path / "another")
    assert link.told == ["stop 3"]


def test_nothing_is_done_in_a_folder_before_what_was_stopped_writes_there_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "_STOP_SECONDS", 0.2)
    link = Recorded()
    link.out = str(tmp_path)
    said = r"run 3 on 127\.0\.0\.1:1 was told to stop, and goes on"
    with held(tmp_path / "flower.log", "taken"), pytest.raises(EngineError, match=said):  # held as by its ServerApp
        end_orphan(link, tmp_path)
    end_orphan(link, tmp_path)


def test_who_finds_no_server_is_told_how_to_start_it(tmp_path: Path) -> None:
    said = r"127\.0\.0\.1:1: nothing listens there; .* `fedmac deploy server DIR`"
    with pytest.raises(EngineError, match=said), server_asked("127.0.0.1:1"):
        control("127.0.0.1:1").healthy()
    with pytest.raises(EngineError, match=rf"`fedmac deploy server {tmp_path}`"), server_asked(str(tmp_path)):
        control("127.0.0.1:1").healthy()


def test_a_failed_run_is_an_error_with_the_server_s_own_traceback(tmp_path: Path) -> None:
    link = Recorded("finished:failed", "exception")
    with pytest.raises(
        EngineError, match=r"(?s)run 4 .* ended finished:failed: exception.*ValueError: the server gave up"
    ):
        run_with(link, tmp_path)


def test_a_full_disk_is_said_in_a_line_with_the_way_on(tmp_path: Path) -> None:
    class Full(Recorded):
        def log(self, run: int) -> Iterator[str]:
            try:
                with writing(tmp_path / "rounds.jsonl"):
                    raise OSError(28, "No space left on device")
            except RecordError:
                yield f"INFO: round 3\n{traceback.format_exc()}INFO: the server ends\n"

    with pytest.raises(EngineError) as raised:
        run_with(Full("finished:failed", "a long tale of Flower's"), tmp_path)
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("run 4 on 127.0.0.1:1 ended finished:failed: ")
    assert "rounds.jsonl" in lines[0]
    assert "No space left on device" in lines[0]
    assert lines[0].endswith("; once that is put right, --resume finishes the run")
    assert lines[1] == f"(whole log: {tmp_path / 'run.log'})"


def test_runs_are_found_by_their_configuration() -> None:
    from flwr.common.serde import user_config_to_proto

    def run(out: str, status: str) -> Run:
        config = cast(Any, user_config_to_proto({"out": out, "only": ""}))
        return Run(override_config=config, status=RunStatus(status=status))

    rows = {1: run("/a", "running"), 2: run("/a", "finished"), 3: run("/b", "running"), 4: run("/a", "pending")}
    content = messages.ListRunsResponse(run_dict=rows).SerializeToString()
    with answering({"/v1/control/list-runs": (200, content)}) as address:
        assert sorted(control(address).unfinished(out="/a")) == [1, 4]
        assert control(address).unfinished(out="/c") == []
