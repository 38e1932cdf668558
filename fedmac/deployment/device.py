"""A device of a deployment: a SuperNode that proves who it is by its key, and comes back when it was cut off."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedmac.client_process import first_on_path
from fedmac.deployment.certificates import check_validity
from fedmac.deployment.folders import DeviceFolder, check_address, check_port, check_private, device_name
from fedmac.deployment.foreground import allow_imports, foreground, threads
from fedmac.deployment.refusals import BadDeployment
from fedmac.deployment.supernode import GAVE_UP
from fedmac.engines.superlink import EngineError, free_port

_AGAIN_SECONDS = 3.0

_REASONS = {
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not accepted: it must be signed by the authority in "
    "ca.crt, for the name or address in device.toml, and be valid now",
    "Failed to activate SuperNode": "the server does not know this device's key: device-K.pub must lie in devices/ of "
    "the server's folder, and the server be started again; or it takes the device for connected still, as it does for "
    "a minute after one was killed: start the device again then",
    "must be registered": "the server asks for a registered key",
    "401 Unauthorized": "the server knows this device's key no longer, or the clocks differ (`fedmac doctor DIR`)",
}
"""What Flower says, and what it means here."""


@dataclass(frozen=True)
class DeviceOptions:
    """How a device takes part.

    Parameters
    ----------
    superlink : str, optional
        Address of the server instead of the folder's.
    port : int, optional
        Loopback port of the SuperNode's own; a free one by default.
    data : Path, optional
        File with the device's own rows instead of its part of the scenario's source.
    classes : int, optional
        How many classes the rows of all devices have together; needed where the file has not all of them.
    profile : str, optional
        What the device may use, for example "phone".
    imports : bool
        Whether scenarios may name models by import path.
    insecure : bool
        Plain HTTP, and no key.
    """

    superlink: str | None = None
    port: int | None = None
    data: Path | None = None
    classes: int | None = None
    profile: str | None = None
    imports: bool = False
    insecure: bool = False


def run_device(folder: DeviceFolder, options: DeviceOptions, say: Callable[[str], None] = print) -> None:
    """Run the SuperNode of a device until it is interrupted; it connects again by itself as often as it must.

    Raises
    ------
    BadDeployment
        If its key, certificate or data cannot be used; before anything has started.
    EngineError
        If the server refuses it, or the SuperNode ends.
    """
    command = command_of(folder, options)
    if options.insecure:
        say("INSECURE: nothing is encrypted, and the server does not prove who it is")
    say(f"{device_name(folder.device)} (of {folder.devices}) connects to {options.superlink or folder.superlink}")
    more = allow_imports(options.imports) | threads() | first_on_path(folder.state / "bin")
    while True:
        with foreground(command, folder.state, say, more) as supernode:
            while (code := supernode.wait(3600.0)) is None:
                pass
            words = supernode.last_words()
        if code != GAVE_UP:
            break
        say(f"{device_name(folder.device)} has lost the server, and connects again")
        time.sleep(_AGAIN_SECONDS)
    why = next((f"{reason}\n" for said, reason in _REASONS.items() if said in words), "")
    raise EngineError(f"Flower's SuperNode exited with {code}: {why}it said:\n{words}")


def command_of(folder: DeviceFolder, options: DeviceOptions) -> list[str]:
    """The command line of a device's SuperNode.

    Raises
    ------
    BadDeployment
        If something on it cannot be.
    """
    port = free_port() if options.port is None else check_port(options.port)
    command = [
        sys.executable,
        "-m",
        "fedmac.deployment.supernode",
        "--superlink",
        check_address(options.superlink or folder.superlink),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--node-config", _node_config(folder, options)]
    if options.insecure:
        return [*command, "--insecure"]
    check_validity(folder.authority, "the server's folder has the present ca.crt")
    key = check_private(folder.key)
    return [*command, "--root-certificates", str(folder.authority), "--auth-supernode-private-key", str(key)]


def _node_config(folder: DeviceFolder, options: DeviceOptions) -> str:
    config: dict[str, int | str] = {"partition-id": folder.device, "num-partitions": folder.devices}
    if options.data is not None:
        if not options.data.is_file():
            raise BadDeployment(f"--data {str(options.data)!r}: no such file; accepted: a .npz or .csv file")
        config["data"] = str(options.data.resolve())
    if options.classes is not None:
        if options.data is None or options.classes < 1:
            raise BadDeployment(f"--classes {options.classes}: accepted: at least 1, with --data")
        config["classes"] = options.classes
    if options.profile is not None:
        config["profile"] = _known_profile(options.profile)
    for key, value in config.items():
        # Flower's configuration of a node has no way to write these.
        if isinstance(value, str) and set(value) & set("\"'\\\n"):
            raise BadDeployment(f"--{key} {value!r}: accepted: no quotes, backslashes or line breaks")
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in config.items())


def _known_profile(name: str) -> str:
    from clients.device_profile import PROFILES  # loads torch: only where a profile is asked for

    if name not in PROFILES:
        raise BadDeployment(f"--profile {name!r}: unknown; accepted: {', '.join(PROFILES)}")
    return name
