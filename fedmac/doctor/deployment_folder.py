"""A deployment's folder: are its certificates valid and its keys private?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fedmac.deployment.folders import DEVICE_FILE, SERVER_FILE, DeviceFolder, ServerFolder
from fedmac.deployment.refusals import BadDeployment
from fedmac.doctor.finding import Finding

RENEW_BEFORE = timedelta(days=30)
_STATE = "state"  # what Flower writes: nothing of ours, and much of it
_BEGINNING = 4096


def deployment_folder(folder: Path, now: datetime | None = None) -> Iterator[Finding]:
    """Look at every certificate and private key in a folder and below.

    Parameters
    ----------
    folder : Path
        A deployment's, or the part of it that this machine has.
    now : datetime, optional
        With its time zone; the present by default.

    Raises
    ------
    BadDeployment
        If there is no such folder.
    """
    if not folder.is_dir():
        raise BadDeployment(f"{folder}: no such folder; accepted: one that `fedmac deploy init` made, or a part of it")
    now, found = now or datetime.now(UTC), 0
    for path in sorted(folder.rglob("*")):
        if _STATE in path.relative_to(folder).parts or not path.is_file():
            continue
        name = str(path.relative_to(folder))
        try:
            with path.open("rb") as file:
                head = file.read(_BEGINNING)
        except OSError as error:
            yield Finding("problem", name, f"cannot be read ({error.strerror})", "run as the user who owns it")
            continue
        if b"PRIVATE KEY-----" in head:
            yield _private(name, path)
        elif b"-----BEGIN CERTIFICATE-----" in head:
            found += 1
            yield _certificate(name, path, now)
    if not found:
        yield Finding("warning", str(folder), "no certificate in it", "see that it is a deployment's folder")


def address_of(folder: Path) -> str | None:
    """Where the SuperLink of a deployment's folder answers, as seen from the machine of that folder."""
    try:
        if any((place / SERVER_FILE).is_file() for place in (folder, folder / "server")):
            return ServerFolder.load(folder).local_address
        if (folder / DEVICE_FILE).is_file():
            return DeviceFolder.load(folder).superlink
    except BadDeployment:
        return None
    return None


def authority_in(folder: Path) -> Path | None:
    """The certificate of the authority, in the folder or its server's part."""
    return next((path for path in (folder / "ca.crt", folder / "server" / "ca.crt") if path.is_file()), None)


def _private(name: str, path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("problem", name, f"a private key that others may read (mode {mode:04o})", f"chmod 600 {path}")
    return Finding("ok", name, "a private key that only its owner may read")


def _certificate(name: str, path: Path, now: datetime) -> Finding:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        return Finding("problem", name, f"a certificate that cannot be read ({error})", "copy it here again")
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    renew = "make a new one: fedmac deploy renew, where ca.key is"
    if now > last:
        return Finding("problem", name, f"a certificate that expired on {last:%Y-%m-%d}", renew)
    if now < first:
        advice = "set the clock (NTP), or make a new one"
        return Finding("problem", name, f"a certificate that is valid from {first:%Y-%m-%d %H:%M} UTC on only", advice)
    authority = path.with_name("ca.crt")
    if authority != path and authority.is_file() and not _signed_by(certificate, authority):
        advice = "use the server.pem and ca.crt of one deployment"
        return Finding("problem", name, "a certificate that the ca.crt beside it has not signed", advice)
    left = f"a certificate that is valid until {last:%Y-%m-%d}, for {(last - now).days} days"
    return Finding("warning", name, left, renew) if last - now < RENEW_BEFORE else Finding("ok", name, left)


def _signed_by(certificate: x509.Certificate, authority: Path) -> bool:
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.read_bytes()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
