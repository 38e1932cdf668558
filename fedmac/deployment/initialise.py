"""Make a deployment: its authority, the server's folder and one for each device."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tomli_w

from fedmac.deployment.certificates import SERVER_DAYS, check_host, new_authority, new_server_certificate
from fedmac.deployment.folders import (
    DEVICE_FILE,
    SERVER_FILE,
    ServerFolder,
    check_port,
    check_private,
    device_name,
    join_address,
)
from fedmac.deployment.keys import new_device_key
from fedmac.deployment.refusals import BadDeployment
from fedmac.deployment.start_files import compose_file, read_me, start_script, systemd_unit
from fedmac.record import FolderInTheWay, writing

PORT = 9443
"""The server's port if none is asked for."""

_MOST_DEVICES = 100_000
_PRIVATE, _PUBLIC, _PROGRAM = 0o600, 0o644, 0o755


def initialise(
    directory: Path, *, devices: int, hosts: tuple[str, ...], port: int = PORT, days: int = SERVER_DAYS
) -> None:
    """Write everything that a deployment's machines need into a new folder.

    Parameters
    ----------
    directory : Path
        Made; must not be there, or be empty.
    devices : int
        How many devices there are; each gets a key of its own.
    hosts : tuple of str
        Names and addresses at which devices reach the server; they dial the first.
    port : int
        The server's port.
    days : int
        How long the server's certificate is valid.

    Raises
    ------
    BadDeployment
        If a value cannot be; nothing has been written.
    FolderInTheWay
        If the folder holds something.
    RecordError
        If it cannot be written.
    """
    if not 1 <= devices <= _MOST_DEVICES:
        raise BadDeployment(f"--devices {devices}: accepted: 1 to {_MOST_DEVICES}")
    if not hosts:
        raise BadDeployment("--host: missing; accepted: the name or address at which devices reach the server")
    hosts = tuple(dict.fromkeys(map(check_host, hosts)))
    check_port(port)
    with writing(directory):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise FolderInTheWay(f"{directory}: is not empty; accepted: a new folder (nothing is ever overwritten)")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made elsewhere and put in place at the end: an interruption leaves no half of a deployment.
        part = directory.with_name(directory.name + ".part")
        part.mkdir(mode=0o700)
        try:
            _fill(part, devices, hosts, port, days)
            part.replace(directory)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def renew(directory: Path, *, days: int = SERVER_DAYS) -> ServerFolder:
    """Make the server's next key and certificate, in the folder in which the deployment was made.

    Raises
    ------
    BadDeployment
        If the authority's key is not there, or the folder is no deployment's.
    RecordError
        If it cannot be written.
    """
    authority = directory / "authority"
    if not (authority / "ca.key").is_file():
        accepted = "the folder that `fedmac deploy init` made, with its authority/"
        raise BadDeployment(f"{authority / 'ca.key'}: not there; accepted: {accepted}")
    folder = ServerFolder.load(directory)
    signer = check_private(authority / "ca.key").read_bytes()
    key, certificate = new_server_certificate(signer, (authority / "ca.crt").read_bytes(), folder.hosts, days=days)
    with writing(folder.path):
        for path, content, mode in ((folder.key, key, _PRIVATE), (folder.certificate, certificate, _PUBLIC)):
            part = path.with_name(path.name + ".part")
            part.unlink(missing_ok=True)
            _write(part, content, mode)
            part.replace(path)
    return folder


def new_key(path: Path) -> Path:
    """Write a device's key pair, ``PATH`` and ``PATH.pub``; return the latter.

    Raises
    ------
    FolderInTheWay
        If one of them is there.
    RecordError
        If it cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    for there in (path, public):
        if there.exists():
            raise FolderInTheWay(f"{there}: is there; accepted: a new name (nothing is ever overwritten)")
    private, shown = new_device_key()
    with writing(path):
        _write(path, private, _PRIVATE)
        _write(public, shown, _PUBLIC)
    return public


def _fill(directory: Path, devices: int, hosts: tuple[str, ...], port: int, days: int) -> None:
    authority_key, authority = new_authority("FedMAC deployment")
    key, certificate = new_server_certificate(authority_key, authority, hosts, days=days)
    _folder(directory / "authority", {"ca.key": authority_key}, {"ca.crt": authority})
    listen = "::" if ":" in hosts[0] else "127.0.0.1" if set(hosts) <= {"localhost", "127.0.0.1"} else "0.0.0.0"
    address = join_address(hosts[0], port)
    settings = {"hosts": list(hosts), "port": port, "listen": listen}
    public = {
        "ca.crt": authority,
        "server.pem": certificate,
        SERVER_FILE: tomli_w.dumps(settings).encode(),
        "compose.yaml": compose_file("server", "server", port).encode(),
        "fedmac-server.service": systemd_unit("server", "server").encode(),
    }
    _folder(directory / "server", {"server.key": key}, public)
    _write(directory / "server/start.sh", start_script("server").encode(), _PROGRAM)
    (directory / "server/devices").mkdir(mode=0o700)
    for device in range(devices):
        _fill_device(directory, device, devices, address, authority)
    _write(directory / "README.md", read_me(hosts, port, devices).encode(), _PUBLIC)


def _fill_device(directory: Path, device: int, devices: int, address: str, authority: bytes) -> None:
    name = device_name(device)
    private, shown = new_device_key()
    _write(directory / "server/devices" / f"{name}.pub", shown, _PUBLIC)
    public = {
        "ca.crt": authority,
        DEVICE_FILE: tomli_w.dumps({"device": device, "devices": devices, "superlink": address}).encode(),
        "compose.yaml": compose_file(name, "device").encode(),
        f"fedmac-{name}.service": systemd_unit(name, "device").encode(),
    }
    _folder(directory / name, {"device.key": private}, public)
    _write(directory / name / "start.sh", start_script("device").encode(), _PROGRAM)


def _folder(path: Path, private: dict[str, bytes], public: dict[str, bytes]) -> None:
    path.mkdir(mode=0o700)
    for name, content in private.items():
        _write(path / name, content, _PRIVATE)
    for name, content in public.items():
        _write(path / name, content, _PUBLIC)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file that never, not even for a moment, has another mode."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
