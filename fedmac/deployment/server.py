"""The server of a deployment: a SuperLink with TLS, behind its gate, that knows its devices by their keys."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import tomli_w

from fedmac.deployment.certificates import check_validity
from fedmac.deployment.control import Control, NoAnswer, Refused
from fedmac.deployment.folders import SERVER_FILE, ServerFolder, check_private, device_name, join_address
from fedmac.deployment.foreground import Foreground, allow_imports, first_on_path, foreground
from fedmac.deployment.keys import registered_form
from fedmac.deployment.patience import PROGRAMS, patient_program
from fedmac.deployment.refusals import BadDeployment
from fedmac.engines.superlink import EngineError
from fedmac.record import write_atomically, writing

_LOOK_SECONDS = 2.0
_RENEW_BEFORE = timedelta(days=30)
_RENEW = "fedmac deploy renew"


def serve(
    folder: ServerFolder,
    *,
    insecure: bool = False,
    imports: bool = False,
    startup_timeout: float = 120.0,
    say: Callable[[str], None] = print,
) -> None:
    """Run the SuperLink of a deployment until it is interrupted.

    Parameters
    ----------
    folder : ServerFolder
        Of the server.
    insecure : bool
        Plain HTTP, and every device that connects takes part.
    imports : bool
        Whether scenarios may name models by import path.
    startup_timeout : float
        Seconds within which the SuperLink must answer.
    say : callable
        Told what happens, line by line.

    Raises
    ------
    BadDeployment
        If a key or certificate cannot be used, or the port is taken; before anything has started.
    EngineError
        If the SuperLink does not start, or ends.
    """
    _check(folder, insecure, say)
    command = [sys.executable, "-m", "fedmac.deployment.gate", "--disable-runtime-dependency-installation"]
    command += ["--isolation", "subprocess", "--host", folder.listen, "--port", str(folder.port)]
    command += ["--database", str(folder.state / "superlink.db")]
    if insecure:
        say("INSECURE: nothing is encrypted, and every device that connects takes part")
        command += ["--insecure"]
    else:
        command += ["--ssl-ca-certfile", str(folder.authority), "--ssl-certfile", str(folder.certificate)]
        command += ["--ssl-keyfile", str(folder.key), "--enable-supernode-auth"]
    _write_flower_config(folder, insecure)
    say(f"starting the server on {join_address(folder.listen, folder.port)}")
    programs = {name: patient_program(entry_point) for name, entry_point in PROGRAMS.items()}
    more = allow_imports(imports) | first_on_path(folder.state / "bin", programs)
    with foreground(command, folder.state, say, more) as superlink:
        control = control_of(folder, insecure=insecure)
        _wait_until_behind_gate(superlink, control, startup_timeout)
        if not insecure:
            for line in synchronise(control, folder):
                say(line)
        control.gate(let_devices_in=True)
        say(f"ready: devices connect to port {folder.port} of {', '.join(folder.hosts)}; Ctrl-C stops the server")
        _watch(superlink, control, say)


def control_of(folder: ServerFolder, *, insecure: bool = False) -> Control:
    """Where the server of a folder is asked, from its own machine."""
    return Control(folder.local_address, authority=None if insecure else folder.authority, insecure=insecure)


def synchronise(control: Control, folder: ServerFolder) -> list[str]:
    """Register the keys in the folder, and unregister nodes whose key is not there; return what was done.

    Raises
    ------
    BadDeployment
        If a file holds no public key.
    NoAnswer
        If the SuperLink does not answer.
    """
    keys = {registered_form(path): device for device, path in folder.device_keys().items()}
    nodes = {node.public_key: node for node in control.nodes()}
    done = []
    for key, device in keys.items():
        if key not in nodes:
            control.register(key, device_name(device))
            done.append(f"{device_name(device)} may take part")
    for key, node in nodes.items():
        if key not in keys:
            control.unregister(node.node_id)
            done.append(f"{node.name or node.node_id} may take part no longer: its key is not in {folder.devices}")
    return done


def _check(folder: ServerFolder, insecure: bool, say: Callable[[str], None]) -> None:
    if not insecure:
        check_private(folder.key)
        check_validity(folder.authority, "fedmac deploy init makes a new deployment")
        left = check_validity(folder.certificate, _RENEW)
        if left < _RENEW_BEFORE:
            say(f"the server's certificate expires in {left.days} days; `{_RENEW}` makes the next one")
        if not folder.device_keys():
            raise BadDeployment(f"{folder.devices}: no device's key in it; accepted: device-K.pub for each device")
    family = socket.AF_INET6 if ":" in folder.listen else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((folder.listen, folder.port))
        except OSError as error:
            taken = f"{folder.path / SERVER_FILE}: port = {folder.port}: {error.strerror} ({folder.listen})"
            raise BadDeployment(f"{taken}; accepted: a free port") from None


def _write_flower_config(folder: ServerFolder, insecure: bool) -> None:
    """Let Flower's own commands find the server: ``FLWR_HOME=server/state flwr supernode list fedmac``."""
    connection: dict[str, str | bool] = {"address": folder.local_address}
    connection |= {"insecure": True} if insecure else {"root-certificates": str(folder.authority)}
    with writing(folder.state):
        folder.state.mkdir(mode=0o700, exist_ok=True)
    content = tomli_w.dumps({"superlink": {"default": "fedmac", "fedmac": connection}})
    write_atomically(folder.state / "config.toml", content)


def _wait_until_behind_gate(superlink: Foreground, control: Control, seconds: float) -> None:
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        if (code := superlink.wait(0.1)) is not None:
            raise EngineError(f"Flower's SuperLink exited with {code}; it said:\n{superlink.last_words()}")
        try:
            control.healthy()
            control.gate()
        except Refused as error:
            raise EngineError(
                f"the server is not behind its gate ({error}): every machine could start code on it. It is stopped; "
                "this version of Flower is not the one that FedMAC was made for"
            ) from None
        except NoAnswer as error:
            last = str(error)
        else:
            return
    raise EngineError(f"Flower's SuperLink did not answer within {seconds:g} s ({last}):\n{superlink.last_words()}")


def _watch(superlink: Foreground, control: Control, say: Callable[[str], None]) -> None:
    """Say which devices come and go, until the SuperLink ends."""
    online: set[str] = set()
    while (code := superlink.wait(_LOOK_SECONDS)) is None:
        try:
            now = {node.name or str(node.node_id) for node in control.nodes() if node.status == "online"}
        except NoAnswer as error:
            say(f"no answer: {error}")
            continue
        for name in sorted(now - online):
            say(f"{name} is online ({len(now)} in all)")
        for name in sorted(online - now):
            say(f"{name} is offline ({len(now)} in all)")
        online = now
    raise EngineError(f"Flower's SuperLink exited with {code}; it said:\n{superlink.last_words()}")
