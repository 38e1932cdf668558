"""Certificates: what they allow, whom they convince, and how long."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedmac.deployment.certificates import (
    check_host,
    check_validity,
    new_authority,
    new_server_certificate,
    read_certificate,
)
from fedmac.deployment.refusals import BadDeployment


def made(folder: Path, *hosts: str, days: int = 365, authority_days: int = 3650) -> tuple[Path, Path, Path]:
    """An authority's certificate, a server's certificate and its key, as files."""
    authority_key, authority = new_authority("Test", days=authority_days)
    key, certificate = new_server_certificate(authority_key, authority, hosts or ("localhost",), days=days)
    paths = folder / "ca.crt", folder / "server.pem", folder / "server.key"
    for path, content in zip(paths, (authority, certificate, key), strict=True):
        path.write_bytes(content)
    return paths


def handshake(trusted: Path, certificate: Path, key: Path, dialled: str) -> None:
    """A TLS handshake over a pair of sockets; raises what the client has against the server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=trusted)
    here, there = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    here.settimeout(10)
    there.settimeout(10)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(here, server_hostname=dialled).close()
    finally:
        here.close()
        thread.join()


@pytest.mark.parametrize("dialled", ["fed.example.org", "192.0.2.7", "2001:db8::7", "localhost", "127.0.0.1"])
def test_a_device_accepts_the_server_under_each_of_its_names_and_addresses(tmp_path: Path, dialled: str) -> None:
    authority, certificate, key = made(tmp_path, "fed.example.org", "192.0.2.7", "2001:db8::7")
    handshake(authority, certificate, key, dialled)


def test_a_device_refuses_the_server_under_another_name(tmp_path: Path) -> None:
    authority, certificate, key = made(tmp_path, "fed.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(authority, certificate, key, "other.example.org")


def test_a_device_refuses_the_server_of_another_deployment(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _, _ = made(tmp_path / "other")
    _, certificate, key = made(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other, certificate, key, "localhost")


def test_the_authority_signs_and_the_server_does_not(tmp_path: Path) -> None:
    authority, certificate = (read_certificate(path) for path in made(tmp_path)[:2])
    ca = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    server = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (ca.critical, ca.value.ca, ca.value.path_length) == (True, True, 0)
    assert (server.critical, server.value.ca) == (True, False)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_no_server_certificate_outlives_its_authority(tmp_path: Path) -> None:
    authority, certificate, _ = made(tmp_path, days=365, authority_days=10)
    assert read_certificate(certificate).not_valid_after_utc == read_certificate(authority).not_valid_after_utc


def test_a_certificate_is_good_between_its_dates_only(tmp_path: Path) -> None:
    _, certificate, _ = made(tmp_path, days=30)
    now = datetime.now(UTC)
    assert timedelta(days=29) < check_validity(certificate, "renew") <= timedelta(days=30)
    for when in (now - timedelta(days=1), now + timedelta(days=31)):
        with pytest.raises(BadDeployment, match=r"server\.pem: valid from .* accepted: a valid certificate \(renew\)"):
            check_validity(certificate, "renew", now=when)


def test_a_key_that_is_not_the_authority_s_signs_nothing() -> None:
    (key, _), (_, authority) = new_authority("One"), new_authority("Other")
    with pytest.raises(BadDeployment, match=r"ca\.key does not belong to ca\.crt"):
        new_server_certificate(key, authority, ("localhost",))


@pytest.mark.parametrize(
    "host", ["", "a b", "-a.org", "a..org", "http://a.org", "a.org:9443", "1.2.3", "256.1.1.1", "ä"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(BadDeployment, match=r"--host .* accepted: a DNS name or an IP address"):
        check_host(host)


@pytest.mark.parametrize("host", ["localhost", "fed-1.example.org", "192.0.2.7", "::1", "3com.com"])
def test_names_and_addresses_are_hosts(host: str) -> None:
    assert check_host(host) == host


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("hello")
    with pytest.raises(BadDeployment, match=r"ca\.crt: no certificate"):
        read_certificate(tmp_path / "ca.crt")
    with pytest.raises(BadDeployment, match=r"none\.crt: not there"):
        read_certificate(tmp_path / "none.crt")
