"""The key with which a device proves who it is.

Flower's SuperNodes sign their requests with ECDSA on a NIST curve; the private key is read in OpenSSH's format, as
``ssh-keygen -t ecdsa -b 384`` writes it, and only the public key ever leaves the device's folder.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)

from fedmac.deployment.refusals import BadDeployment


def new_device_key() -> tuple[bytes, bytes]:
    """Make a device's key pair on the curve P-384.

    Returns
    -------
    private, public : bytes
        In OpenSSH's format.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private, public + b"\n"


def registered_form(path: Path) -> bytes:
    """The public key in an OpenSSH file as the SuperLink keeps it (PEM).

    Raises
    ------
    BadDeployment
        If the file holds no public key on a NIST curve.
    """
    accepted = "accepted: the public key of a device, as `fedmac deploy init` and `ssh-keygen -t ecdsa` write it"
    try:
        key = load_ssh_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadDeployment(f"{path}: no public key ({error}); {accepted}") from None
    except OSError as error:
        raise BadDeployment(f"{path}: cannot be read ({error.strerror}); {accepted}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise BadDeployment(f"{path}: a key of type {type(key).__name__}; {accepted}")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
