"""A device keeps trying to reach its server, and is started again where Flower's part of it has given up."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.supercore.retry import make_simple_http_retry_invoker

from fedmac.deployment import device
from fedmac.deployment.device import DeviceOptions, run_device
from fedmac.deployment.folders import DeviceFolder
from fedmac.deployment.initialise import initialise
from fedmac.deployment.patience import PROGRAMS, patient, patient_program
from fedmac.deployment.supernode import GAVE_UP
from fedmac.engines.superlink import EngineError

HANDSHAKE = "_ssl.c:989: The handshake operation timed out"


def gives_up(error: Exception) -> bool:
    invoker = patient(make_simple_http_retry_invoker())
    assert invoker.should_giveup is not None
    return invoker.should_giveup(error)


def test_a_handshake_that_took_too_long_is_tried_again() -> None:
    flower_s = make_simple_http_retry_invoker()
    assert flower_s.should_giveup is not None
    assert flower_s.should_giveup(httpx.ConnectTimeout(HANDSHAKE)), "else nothing need be done about it"
    assert not gives_up(httpx.ConnectTimeout(HANDSHAKE))


def test_a_certificate_that_is_not_accepted_ends_it_as_before() -> None:
    assert gives_up(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"))
    assert not gives_up(httpx.ConnectError("connection refused"))


def test_httpx_says_of_a_slow_handshake_that_it_is_a_time_out() -> None:
    """What the fix rests on: a server that accepts the connection and says nothing."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        httpx.Client(verify=ssl.create_default_context(), trust_env=False) as client,
        pytest.raises(httpx.TimeoutException) as slow,
    ):
        client.get(f"https://127.0.0.1:{mute.getsockname()[1]}", timeout=0.2)
    assert "ssl" in str(slow.value).lower()


PROGRAM = """
import sys, threading, time
from importlib import import_module
program = import_module("flwr.supernode.cli.flower_supernode")

def flower_s_own(**given):
    if "fails" in sys.argv:
        raise RuntimeError("no luck today")

program.start_client_internal = flower_s_own
def run():
    threading.Thread(target=time.sleep, args=(60,)).start()  # as the thread that serves the SuperNode's own parts
    program.start_client_internal(max_retries=None)
program.flower_supernode = run

from fedmac.deployment.supernode import main
main()
"""


@pytest.mark.parametrize("how", ["returns", "fails"])
def test_a_supernode_that_has_given_up_ends(how: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=50, env=os.environ, check=False
    )
    assert ended.returncode == GAVE_UP, ended.stderr
    assert ("no luck today" in ended.stderr + ended.stdout) == (how == "fails")


WORDS = {
    "Failed to activate SuperNode": "exited with 1: the server does not know this device's key",
    "Client error '401 Unauthorized' for url": "exited with 1: the server knows this device's key no longer",
}


@pytest.mark.parametrize(("words", "message"), WORDS.items())
def test_a_device_whose_supernode_has_given_up_connects_again_until_it_is_refused(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initialise(tmp_path / "fed", devices=1, hosts=("localhost",))
    codes = iter([GAVE_UP, GAVE_UP, 1])

    class Ended:
        def wait(self, _seconds: float) -> int:
            return next(codes)

        def last_words(self) -> str:
            return words

    @contextmanager
    def started(*_arguments: Any) -> Iterator[Ended]:
        yield Ended()

    monkeypatch.setattr(device, "foreground", started)
    monkeypatch.setattr(device, "_AGAIN_SECONDS", 0.0)
    said: list[str] = []
    with pytest.raises(EngineError, match=message):
        run_device(DeviceFolder.load(tmp_path / "fed", 0), DeviceOptions(), said.append)
    assert said[1:] == ["device-0 has lost the server, and connects again"] * 2


@pytest.mark.parametrize("entry_point", PROGRAMS.values())
def test_what_a_superlink_starts_is_patient(entry_point: str) -> None:
    imported = patient_program(entry_point).rpartition("\n\n")[0]  # all but the call
    check = "\n".join(
        [
            imported,
            "import sys, httpx",
            "named = [m for n, m in sys.modules.items() if n.startswith('flwr.') and 'retry' not in n]",
            "made = [m.make_simple_http_retry_invoker for m in named if hasattr(m, 'make_simple_http_retry_invoker')]",
            f"assert made and not any(make().should_giveup(httpx.ConnectTimeout({HANDSHAKE!r})) for make in made)",
        ]
    )
    subprocess.run([sys.executable, "-c", check], timeout=50, check=True)
