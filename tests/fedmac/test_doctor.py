"""The doctor: what it finds well and what not, on this machine, in a deployment's folder, and at a SuperLink."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from fedmac.deployment.certificates import new_authority, new_server_certificate
from fedmac.deployment.refusals import BadDeployment
from fedmac.doctor import Finding, examine, machine
from fedmac.doctor import superlinks as superlinks_module
from fedmac.doctor.clock import clock
from fedmac.doctor.deployment_folder import address_of, authority_in, deployment_folder
from fedmac.doctor.finding import graded
from fedmac.doctor.installation import installation, lacking
from fedmac.doctor.superlinks import Process, listener, ports, superlinks
from tests.fedmac.command_line import Command


class Certificates:
    """A folder with an authority and a server's certificate, valid for so many days."""

    def __init__(self, folder: Path, days: int = 365) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        authority_key, authority = new_authority("test")
        key, certificate = new_server_certificate(authority_key, authority, ("localhost",), days=days)
        self.ca, self.pem, self.key = folder / "ca.crt", folder / "server.pem", folder / "server.key"
        for path, content in ((self.ca, authority), (self.pem, certificate), (self.key, key)):
            path.write_bytes(content)
        self.key.chmod(0o600)

    def found(self, days_later: float = 0) -> dict[str, Finding]:
        """What the doctor finds, so much later."""
        now = datetime.now(UTC) + timedelta(days=days_later)
        return {finding.about: finding for finding in deployment_folder(self.folder, now)}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates that are valid for a year; nobody changes them."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("days_later", "level", "says"),
    [
        (0, "ok", "for 364 days"),
        (340, "warning", "for 24 days"),
        (366, "problem", "expired on"),
        (-1, "problem", "on only"),
    ],
)
def test_a_certificate_is_judged_by_its_days(
    certificates: Certificates, days_later: int, level: str, says: str
) -> None:
    finding = certificates.found(days_later)["server.pem"]
    assert finding.level == level
    assert says in finding.found
    assert bool(finding.advice) == (level != "ok")


def test_an_expired_authority_is_a_problem_too(certificates: Certificates) -> None:
    assert certificates.found(4000)["ca.crt"].level == "problem"


def test_a_certificate_of_another_authority_is_a_problem(tmp_path: Path, certificates: Certificates) -> None:
    mixed = Certificates(tmp_path / "mixed")
    mixed.ca.write_bytes(certificates.ca.read_bytes())
    finding = mixed.found()["server.pem"]
    assert (finding.level, finding.found) == ("problem", "a certificate that the ca.crt beside it has not signed")


def test_a_private_key_that_others_may_read_is_a_problem(tmp_path: Path) -> None:
    folder = Certificates(tmp_path / "dep")
    assert folder.found()["server.key"].level == "ok"
    folder.key.chmod(0o640)
    finding = folder.found()["server.key"]
    assert (finding.level, finding.advice) == ("problem", f"chmod 600 {folder.key}")


def test_a_damaged_certificate_is_a_problem_and_what_flower_writes_is_not_looked_at(tmp_path: Path) -> None:
    folder = Certificates(tmp_path / "dep")
    folder.pem.write_bytes(folder.pem.read_bytes()[:300])
    (folder.folder / "state").mkdir()
    (folder.folder / "state" / "other.key").write_text("-----BEGIN PRIVATE KEY-----")
    found = folder.found()
    assert found["server.pem"].level == "problem"
    assert set(found) == {"ca.crt", "server.key", "server.pem"}


def test_a_folder_without_certificates_is_said_to_be_one(tmp_path: Path) -> None:
    (finding,) = deployment_folder(tmp_path)
    assert (finding.level, finding.found) == ("warning", "no certificate in it")
    with pytest.raises(BadDeployment, match="no such folder; accepted"):
        list(deployment_folder(tmp_path / "nothing"))


@contextmanager
def superlink(ahead_s: float | None, status: int = 200, certificates: Certificates | None = None) -> Iterator[str]:
    """An address that answers like a SuperLink whose clock is ahead of ours (None: that says no date)."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status if self.path == "/health" else 404)
            if ahead_s is not None:
                self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.pem, certificates.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# A date is in whole seconds and the answer takes time: skews are taken 3 s away from each limit.
@pytest.mark.parametrize(
    ("ahead_s", "level", "says"),
    [
        (0.0, "ok", "clocks agree"),
        (10.0, "warning", "10 s behind its clock"),
        (300.0, "warning", "s behind its clock"),
        (310.0, "problem", "it refuses this device"),
        (-10.0, "problem", "10 s ahead of its clock, and it refuses this device"),
        (None, "ok", "its clock is unknown"),
    ],
)
def test_clocks_are_compared_by_the_date_of_the_superlinks_answer(
    certificates: Certificates, ahead_s: float | None, level: str, says: str
) -> None:
    with superlink(ahead_s, certificates=certificates) as address:
        finding = clock(address, certificates.ca)
    assert (finding.level, finding.about) == (level, f"server {address}")
    assert says in finding.found.replace("9 s", "10 s").replace("11 s", "10 s")


def test_a_superlink_without_tls_is_a_warning() -> None:
    with superlink(0.0) as address:
        finding = clock(address)
    assert finding.level == "warning"
    assert "without TLS" in finding.found


def test_a_certificate_that_is_not_accepted_is_a_problem(tmp_path: Path, certificates: Certificates) -> None:
    other = Certificates(tmp_path / "other")
    with superlink(0.0, certificates=certificates) as address:
        finding = clock(address, other.ca)
    assert finding.level == "problem"
    assert "its certificate is not accepted" in finding.found


def test_no_superlink_is_a_problem(certificates: Certificates) -> None:
    with superlink(0.0, status=404, certificates=certificates) as address:
        assert "status 404 on /health" in clock(address, certificates.ca).found
    finding = clock(address, certificates.ca)  # it is gone now
    assert (finding.level, finding.found) == ("problem", "no answer: nothing listens there")


def test_a_taken_port_is_said_with_the_process_that_has_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        (free,) = ports({port: "for a test"})
        other.listen()
        (taken,) = ports({port: "for a test"})
        (expected,) = ports({port: "for a test"}, expected=port)
        assert listener(port) == os.getpid()
    assert (free.level, free.found) == ("ok", "free (for a test)")
    assert (taken.level, taken.found) == ("warning", f"in use by process {os.getpid()} of yours (for a test)")
    assert expected.level == "ok"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a SuperLink that ``flwr run`` has left."""
    script = tmp_path / "flower-superlink"
    script.write_text("import time; print(flush=True); time.sleep(60)")
    environment = os.environ | {"FLWR_HOME": str(tmp_path / "home")}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_superlink_left_behind_is_said_with_how_to_end_it(program: subprocess.Popen[bytes], tmp_path: Path) -> None:
    found = [f for f in superlinks() if f.about == "background SuperLink" and f"process {program.pid} " in f.found]
    assert [finding.level for finding in found] == ["warning"]
    assert f"at home in {tmp_path / 'home'}" in found[0].found
    assert found[0].advice.endswith(f"kill {program.pid}")


def test_fedmacs_own_superlinks_are_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [Process(1, "/tmp/fedmac-ab12", gate=False), Process(2, "/opt/server/state", gate=True)]
    monkeypatch.setattr(superlinks_module, "processes", lambda: own)
    monkeypatch.setattr(superlinks_module, "ports", lambda *_: iter(()))
    (finding,) = superlinks()
    assert (finding.level, finding.found) == ("ok", "none of yours but 2 of FedMAC's own")


def test_packages_of_another_version_and_missing_ones_are_named() -> None:
    assert lacking(Requirement("numpy>=1")) == ""
    assert lacking(Requirement("numpy>=99")).endswith("but >=99 is needed")
    assert lacking(Requirement("no-such-package")) == "no-such-package is not installed"


def test_this_installation_is_well() -> None:
    found = list(installation())
    assert {finding.level for finding in found} == {"ok"}
    assert [finding.about for finding in found] == ["Python", "packages", "extras"]


def test_amounts_are_graded() -> None:
    assert [graded(value, 1, 2) for value in (0.5, 1, 1.5, 2, 3)] == ["problem", "warning", "warning", "ok", "ok"]


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmac.doctor.machine.shutil.disk_usage", lambda _: SimpleNamespace(free=10**8))
    finding = machine.disk(tmp_path)
    assert (finding.level, finding.found) == ("problem", f"0.1 GB free at {tmp_path}")


def test_the_limit_of_a_container_bounds_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = machine.memory_available()
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert everything is None or machine.memory_available() == 2_000_000


def test_a_folder_that_cannot_be_written_is_a_problem_and_nothing_is_left_in_one_that_can(tmp_path: Path) -> None:
    wanted = tmp_path / "runs" / "deep"
    assert machine.writable("runs", wanted, "advice").level == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").write_text("a file")
    finding = machine.writable("runs", wanted, "advice")
    assert (finding.level, finding.advice) == ("problem", "advice")


def test_the_address_and_authority_are_those_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "server.toml").write_text('hosts = ["a.example"]\nport = 9500\nlisten = "0.0.0.0"\n')
    (tmp_path / "server" / "ca.crt").touch()
    device = tmp_path / "device-0"
    device.mkdir()
    (device / "device.toml").write_text('device = 0\ndevices = 1\nsuperlink = "a.example:9500"\n')
    assert address_of(tmp_path) == address_of(tmp_path / "server") == "127.0.0.1:9500"
    assert authority_in(tmp_path) == tmp_path / "server" / "ca.crt"
    assert address_of(device) == "a.example:9500"
    assert address_of(tmp_path / "nothing") is None


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(BadDeployment, match=r"--superlink 'nowhere': accepted: host:port"):
        list(examine(superlink="nowhere"))


def test_the_command_ends_with_0_or_1_by_what_it_finds(fedmac: Command, certificates: Certificates) -> None:
    with superlink(0.0, certificates=certificates) as address:
        well = fedmac("doctor", certificates.folder, "--superlink", address)
        lines = {tuple(line.split(": ")[0].split(maxsplit=1)) for line in well.out.splitlines()}
        assert {("ok", "Python"), ("ok", "server.pem"), ("ok", f"server {address}"), ("ok", "GPU")} <= lines
        assert well.code == 0
        certificates.key.chmod(0o644)
        ill = fedmac("doctor", certificates.folder, "--superlink", address)
        certificates.key.chmod(0o600)
    assert ill.code == 1
    assert (
        f"problem  server.key: a private key that others may read (mode 0644); chmod 600 {certificates.key}" in ill.out
    )


def test_the_command_refuses_what_is_no_folder(fedmac: Command) -> None:
    ended = fedmac("doctor", "nothing")
    assert (ended.code, "nothing: no such folder; accepted" in ended.err) == (2, True)
