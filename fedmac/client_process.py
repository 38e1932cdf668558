"""The program ``flwr-clientapp`` of a device, which starts in two thirds of the time that Flower's own takes.

A SuperNode starts it by its name, for every message anew. Flower's own also imports the SuperNode with its databases;
this one imports what it runs, PyTorch and the ClientApp included, with the garbage collector at rest: everything that
imports make stays, and to look through it over and over takes a sixth of the time. An app that names
``fedmac.client_app`` gets the one that is installed on the device.

Source: Flower 1.41 ``flwr.supernode.cli.flwr_clientapp``, whose options it has.
"""

from __future__ import annotations

import gc
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PROGRAM = "flwr-clientapp"
"""The name by which Flower starts it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a ClientApp for one message, as the SuperNode that has started this process says.

    Parameters
    ----------
    arguments : sequence of str, optional
        Flower's; those of the process if not given.
    """
    gc.disable()
    from flwr.common.args import try_obtain_flwr_app_token
    from flwr.supercore.tls import validate_and_resolve_root_certificates
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    with suppress(Exception):  # what is wrong with it Flower meets again, and tells the server
        import fedmac.client_app  # noqa: F401

    gc.freeze()
    gc.enable()
    given = options().parse_args(arguments)
    run_clientapp(
        runtime_api_address=given.runtime_api_address,
        token=try_obtain_flwr_app_token(given),
        insecure=given.insecure,
        certificates=validate_and_resolve_root_certificates(given.root_certificates, given.insecure),
        parent_pid=given.parent_pid,
        runtime_dependency_install=given.runtime_dependency_install,
    )


def options() -> ArgumentParser:
    """The options of Flower's own program."""
    from flwr.common.args import add_args_flwr_app_common
    from flwr.supercore.constant import SUPERNODE_DEFAULT_CLIENT_ADDRESS

    parser = ArgumentParser(PROGRAM, description="Run a Flower ClientApp")
    parser.add_argument("--runtime-api-address", default=SUPERNODE_DEFAULT_CLIENT_ADDRESS)
    add_args_flwr_app_common(parser=parser)
    return parser


def first_on_path(folder: Path) -> dict[str, str]:
    """Put the program into `folder`; the environment variable by which a SuperNode finds it before Flower's own."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = folder / PROGRAM
    program.write_text(f"#!{sys.executable}\nfrom fedmac.client_process import main\n\nmain()\n")
    program.chmod(0o700)
    return {
        "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    }
