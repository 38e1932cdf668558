"""`fedmac deploy`: make a federation of real devices, run its server, run a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedmac.cli.exits import say

deploy = typer.Typer(no_args_is_help=True, help="Run a federation of real devices: keys, server, devices.")

Directory = Annotated[Path, typer.Argument(help="Folder that `fedmac deploy init` made, or this machine's part of it.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="No encryption and no keys. Only to try things out.")]
Imports = Annotated[
    bool, typer.Option("--allow-imports", help="Let scenarios name models by import path (foreign code).")
]
Days = Annotated[int, typer.Option("--valid-days", help="Days until the server's certificate expires.")]


@deploy.command()
def init(
    directory: Annotated[Path, typer.Argument(help="New folder.")],
    devices: Annotated[int, typer.Option(help="Number of devices.")] = 3,
    host: Annotated[
        str, typer.Option(help="Names and addresses at which devices reach the server, separated by commas.")
    ] = "localhost",
    port: Annotated[int, typer.Option(help="The server's port.")] = 9443,
    days: Days = 365,
) -> None:
    """Write keys, certificates and start files: a folder for the server and one for each device."""
    from fedmac.deployment.initialise import initialise

    hosts = tuple(part.strip() for part in host.split(",") if part.strip())
    initialise(directory, devices=devices, hosts=hosts, port=port, days=days)
    typer.echo(f"{directory / 'README.md'} says which folder goes to which machine")


@deploy.command()
def server(directory: Directory, insecure: Insecure = False, imports: Imports = False) -> None:
    """Run the server: a SuperLink with TLS that knows its devices by their keys. Ctrl-C stops it."""
    from fedmac.deployment.folders import ServerFolder
    from fedmac.deployment.server import serve

    with _until_interrupted("server"):
        serve(ServerFolder.load(directory), insecure=insecure, imports=imports, say=_show)


@deploy.command()
def device(
    directory: Directory,
    number: Annotated[
        int | None, typer.Option("--id", help="Number of the device; needed in the whole deployment's folder.")
    ] = None,
    superlink: Annotated[str | None, typer.Option(help="Address of the server (default: the folder's).")] = None,
    port: Annotated[int | None, typer.Option(help="Loopback port of its own (default: a free one).")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The device's own rows (.npz or .csv), instead of its part of the scenario's.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(help="With --data: number of classes of all devices, if the file has not all.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="What the device may use: full (default) or phone.")] = None,
    insecure: Insecure = False,
    imports: Imports = False,
) -> None:
    """Run a device: a SuperNode with its key that comes back when it was cut off. Ctrl-C stops it."""
    from fedmac.deployment.device import DeviceOptions, run_device
    from fedmac.deployment.folders import DeviceFolder

    options = DeviceOptions(superlink, port, data, classes, profile, imports, insecure)
    with _until_interrupted("device"):
        run_device(DeviceFolder.load(directory, number), options, say=_show)


@deploy.command()
def renew(
    directory: Annotated[Path, typer.Argument(help="Folder that `fedmac deploy init` made, with its authority/.")],
    days: Days = 365,
) -> None:
    """Make the server's next key and certificate."""
    from fedmac.deployment.initialise import renew as renew_certificate

    folder = renew_certificate(directory, days=days)
    typer.echo(f"copy {folder.certificate} and {folder.key} to the server and start it again")


@deploy.command()
def key(path: Annotated[Path, typer.Argument(help="New file; the public key goes beside it, with .pub.")]) -> None:
    """Make a device's next key."""
    from fedmac.deployment.initialise import new_key

    typer.echo(f"copy {new_key(path)} to devices/device-K.pub in the server's folder and start the server again")


def _show(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _until_interrupted(part: str) -> Iterator[None]:
    """Ctrl-C is how these commands end."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"{part} stopped")
