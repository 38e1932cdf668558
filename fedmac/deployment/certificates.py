"""Certificates of a deployment: an authority of its own, and the server's certificate that it signs.

Devices trust the authority and nothing else, so that no public certificate and no public name is needed. X.509 v3
after RFC 5280 with keys on the curve P-256; TLS clients compare the address they dial with the certificate's subject
alternative names (RFC 6125), so every name and address under which devices reach the server must be among them.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmac.deployment.refusals import BadDeployment

AUTHORITY_DAYS = 3650
"""Days that an authority is valid: devices must be given a new one afterwards."""

SERVER_DAYS = 365
"""Days that a server's certificate is valid; ``fedmac deploy renew`` makes the next one."""

_BACKDATED = timedelta(hours=1)  # a device whose clock is a little slow must not refuse a new certificate
_HERE = ("localhost", "127.0.0.1", "::1")  # the run command and the ServerApp reach the server from its own machine
_DNS_NAME = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


def check_host(host: str) -> str:
    """Return `host` if it is a DNS name or an IP address.

    Raises
    ------
    BadDeployment
        If it is neither.
    """
    digits = set(host) <= set("0123456789.")  # 1.2.3 is no name but a mistyped address
    if _address(host) is None and (digits or not _DNS_NAME.fullmatch(host)):
        raise BadDeployment(f"--host {host!r}: accepted: a DNS name or an IP address, several separated by commas")
    return host


def new_authority(name: str, *, days: int = AUTHORITY_DAYS) -> tuple[bytes, bytes]:
    """Make an authority that signs server certificates and nothing else.

    Parameters
    ----------
    name : str
        Its common name.
    days : int
        How long it is valid.

    Returns
    -------
    key, certificate : bytes
        PEM; whoever has the key can make servers that all devices trust.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_bytes(key), certificate.public_bytes(Encoding.PEM)


def new_server_certificate(
    authority_key: bytes, authority: bytes, hosts: tuple[str, ...], *, days: int = SERVER_DAYS
) -> tuple[bytes, bytes]:
    """Make a server's key and the certificate with which an authority vouches for it.

    Parameters
    ----------
    authority_key, authority : bytes
        PEM, of :func:`new_authority`.
    hosts : tuple of str
        DNS names and IP addresses at which the server is reached, the first one its common name; those of its own
        machine are added.
    days : int
        How long it is valid; never longer than the authority.

    Returns
    -------
    key, certificate : bytes
        PEM.

    Raises
    ------
    BadDeployment
        If a host is no host, or key and certificate of the authority do not belong together.
    """
    signer = load_pem_private_key(authority_key, password=None)
    issuer = x509.load_pem_x509_certificate(authority)
    if not isinstance(signer, ec.EllipticCurvePrivateKey) or signer.public_key() != issuer.public_key():
        raise BadDeployment("ca.key does not belong to ca.crt; accepted: the two files that `fedmac deploy init` wrote")
    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(check_host(host)) for host in dict.fromkeys((*hosts, *_HERE))]
    certificate = (
        _builder(_named(hosts[0]), issuer.subject, key.public_key(), days, issuer.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return _key_bytes(key), certificate.public_bytes(Encoding.PEM)


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file.

    Raises
    ------
    BadDeployment
        If there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise BadDeployment(f"{path}: not there; accepted: a certificate (PEM)") from None
    except ValueError as error:
        raise BadDeployment(f"{path}: no certificate ({error}); accepted: a certificate (PEM)") from None


def check_validity(path: Path, what_to_do: str, *, now: datetime | None = None) -> timedelta:
    """How long the certificate in `path` stays valid.

    Parameters
    ----------
    path : Path
        PEM file.
    what_to_do : str
        What the error says should be done about an expired one.
    now : datetime, optional
        With its time zone; the present by default.

    Raises
    ------
    BadDeployment
        If it has expired or is not valid yet.
    """
    certificate, now = read_certificate(path), now or datetime.now(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        raise BadDeployment(
            f"{path}: valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, and it is "
            f"{now:%Y-%m-%d %H:%M}; accepted: a valid certificate ({what_to_do})"
        )
    return last - now


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    if days < 1:
        raise BadDeployment(f"--valid-days {days}: accepted: an integer of at least 1")
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(end if latest is None else min(end, latest))
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # RFC 5280's upper bound


def _general_name(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
