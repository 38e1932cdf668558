"""What lies where in a deployment: the server's folder, and one for each device.

A deployment's folder holds ``authority/`` (stays with whoever runs the federation), ``server/`` and ``device-0/``,
``device-1/``, …; each of the latter is all that its machine gets. What Flower writes goes into ``state/`` within.
"""

from __future__ import annotations

import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmac.deployment.refusals import BadDeployment

SERVER_FILE, DEVICE_FILE = "server.toml", "device.toml"

_KEY_FILE = re.compile(r"device-(\d+)\.pub")


@dataclass(frozen=True)
class ServerFolder:
    """What the server's machine gets.

    Parameters
    ----------
    path : Path
        The folder.
    hosts : tuple of str
        Names and addresses under which devices reach the server.
    port : int
        Its one port.
    listen : str
        Address it binds.
    """

    path: Path
    hosts: tuple[str, ...]
    port: int
    listen: str

    @classmethod
    def load(cls, directory: Path) -> ServerFolder:
        """Read a server's folder, or that of the whole deployment.

        Raises
        ------
        BadDeployment
            If it is neither, or says something that cannot be.
        """
        path = _folder(directory, SERVER_FILE, "server")
        values = _table(path / SERVER_FILE, {"hosts": list, "port": int, "listen": str})
        hosts = values["hosts"]
        if not hosts or not all(isinstance(host, str) for host in hosts):
            raise BadDeployment(f"{path / SERVER_FILE}: hosts = {hosts!r}: accepted: a list of names or addresses")
        return cls(path, tuple(hosts), check_port(values["port"], f"{path / SERVER_FILE}: port ="), values["listen"])

    @property
    def authority(self) -> Path:
        """Certificate of the authority."""
        return self.path / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.path / "server.pem"

    @property
    def key(self) -> Path:
        """The certificate's private key."""
        return self.path / "server.key"

    @property
    def devices(self) -> Path:
        """Folder of the public keys of the devices that may take part."""
        return self.path / "devices"

    @property
    def state(self) -> Path:
        """Where Flower writes."""
        return self.path / "state"

    @property
    def local_address(self) -> str:
        """Where the server is reached from its own machine."""
        return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.listen, self.listen), self.port)

    def device_keys(self) -> dict[int, Path]:
        """Public keys of the devices that may take part, by number."""
        found = ((_KEY_FILE.fullmatch(path.name), path) for path in self.devices.glob("*.pub"))
        return dict(sorted((int(match[1]), path) for match, path in found if match))


@dataclass(frozen=True)
class DeviceFolder:
    """What a device's machine gets.

    Parameters
    ----------
    path : Path
        The folder.
    device : int
        Number of the device.
    devices : int
        Number of all devices.
    superlink : str
        Address of the server, ``host:port``.
    """

    path: Path
    device: int
    devices: int
    superlink: str

    @classmethod
    def load(cls, directory: Path, device: int | None = None) -> DeviceFolder:
        """Read a device's folder, or, for the device of that number, that of the whole deployment.

        Raises
        ------
        BadDeployment
            If it is neither, is another device's, or says something that cannot be.
        """
        if numbers := _numbers_within(directory):
            accepted = f"accepted, in the whole deployment's folder: {numbers}"
            if device is None:
                raise BadDeployment(f"--id: missing; {accepted}")
            if not (directory / device_name(device) / DEVICE_FILE).is_file():
                raise BadDeployment(f"--id {device}: no such device; {accepted}")
        path = _folder(directory, DEVICE_FILE, "device" if device is None else device_name(device))
        file = path / DEVICE_FILE
        values = _table(file, {"device": int, "devices": int, "superlink": str})
        if device not in (None, values["device"]):
            raise BadDeployment(f"--id {device}: {path} is of device {values['device']}; accepted: that number")
        if not 0 <= values["device"] < values["devices"]:
            accepted = f"0 to devices - 1 = {values['devices'] - 1}"
            raise BadDeployment(f"{file}: device = {values['device']}: accepted: {accepted}")
        superlink = check_address(values["superlink"], f"{file}: superlink =")
        return cls(path, values["device"], values["devices"], superlink)

    @property
    def authority(self) -> Path:
        """Certificate of the authority, by which the device knows its server."""
        return self.path / "ca.crt"

    @property
    def key(self) -> Path:
        """The device's private key."""
        return self.path / "device.key"

    @property
    def state(self) -> Path:
        """Where Flower writes."""
        return self.path / "state"


def device_name(device: int) -> str:
    """Name of a device's folder, of its key's file, and under which the server lists it."""
    return f"device-{device}"


def device_number(name: str) -> int | None:
    """Number of the device with a name of :func:`device_name`; None of any other."""
    match = re.fullmatch(r"device-(\d+)", name, re.ASCII)
    return int(match[1]) if match else None


def check_port(port: int, field: str = "--port") -> int:
    """Return `port` if it is one.

    Raises
    ------
    BadDeployment
        If it is not.
    """
    if not 1 <= port <= 65535:
        raise BadDeployment(f"{field} {port}: accepted: 1 to 65535 (below 1024 only root may open it)")
    return port


def check_address(address: str, field: str = "--superlink") -> str:
    """Return `address` if it is ``host:port``.

    Raises
    ------
    BadDeployment
        If it is not.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or "/" in address or not port.isdigit() or (":" in bare and not host.startswith("[")):
        raise BadDeployment(f"{field} {address!r}: accepted: host:port, for example server.example.org:9443")
    check_port(int(port), f"{field} {address!r}, port")
    return address


def join_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_private(path: Path) -> Path:
    """Return `path` if it holds a file that only its owner may read.

    Raises
    ------
    BadDeployment
        If it is not there, or others may read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise BadDeployment(f"{path}: {error.strerror}; accepted: a private key file") from None
    if mode & 0o077:
        raise BadDeployment(f"{path}: mode is {mode:04o}, others may read it; accepted: 0600 (chmod 600 {path})")
    return path


def _numbers_within(directory: Path) -> str:
    """Numbers of the devices whose folders are in this one, few enough for a line; empty if there are none."""
    found = (re.fullmatch(r"device-(\d+)", path.parent.name) for path in directory.glob(f"device-*/{DEVICE_FILE}"))
    numbers = sorted(int(match[1]) for match in found if match)
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "…", shown[-1]])


def _folder(directory: Path, file: str, within: str) -> Path:
    for path in (directory, directory / within):
        if (path / file).is_file():
            return path.resolve()
    raise BadDeployment(
        f"{directory}: neither {file} nor {within}/{file} is in it; accepted: a folder that `fedmac deploy init` made, "
        "or the part of it for this machine"
    )


def _table(file: Path, kinds: dict[str, type]) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadDeployment(f"{file}: not valid TOML: {error}") from None
    for key, kind in kinds.items():
        if key not in values:
            raise BadDeployment(f"{file}: {key} is missing; accepted: a {kind.__name__}")
        if type(values[key]) is not kind:
            raise BadDeployment(f"{file}: {key} = {values[key]!r}: accepted: a {kind.__name__}")
    for key in values.keys() - kinds.keys():
        raise BadDeployment(f"{file}: {key}: no such key; accepted: {', '.join(kinds)}")
    return values
