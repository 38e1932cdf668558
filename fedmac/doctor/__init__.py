"""Whether this machine can run FedMAC, and its part of a deployment: what is well, what is not, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedmac.doctor.finding import Finding
from fedmac.doctor.installation import installation

__all__ = ["Finding", "examine"]


def examine(folder: Path | None = None, superlink: str | None = None) -> Iterator[Finding]:
    """Look at the installation, the machine, a deployment's folder and its SuperLink.

    Parameters
    ----------
    folder : Path, optional
        A deployment's folder, or the part of it that this machine has.
    superlink : str, optional
        Address of a SuperLink, ``host:port``; that of the folder by default.

    Yields
    ------
    Finding
        One after the other, as each takes its time.

    Raises
    ------
    BadDeployment
        If the folder is not there, or the address is none.
    """
    yield from installation()  # before anything is imported that it may find missing
    from fedmac.deployment.folders import check_address
    from fedmac.doctor.clock import clock
    from fedmac.doctor.deployment_folder import address_of, authority_in, deployment_folder
    from fedmac.doctor.machine import machine
    from fedmac.doctor.superlinks import superlinks

    address, authority = None if superlink is None else check_address(superlink), None
    if folder is not None:
        yield from deployment_folder(folder)
        address, authority = address or address_of(folder), authority_in(folder)
    yield from machine(Path.cwd())
    if address is not None:
        yield clock(address, authority)
    yield from superlinks(address)
