"""The key pair of a state directory, shared by all daemons of one user: who shows it is one of them.

Each side accepts this one certificate and no other. Must not be loaded by a user's process (it needs `cryptography`).
Spec: docs/spec/003-control.md.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rfaas.control.address import check_private, write_private
from rfaas_transport.errors import ConfigError

SERVER_NAME: Final = "allocator.rfaas.internal"
"""The name in the certificate: peers ask for it whatever the address is, so hosts may be renamed and moved."""

VALID_FOR: Final = datetime.timedelta(days=3650)
CLOCK_SKEW: Final = datetime.timedelta(days=1)  # nodes' wall clocks differ


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM of a private key and its certificate."""

    key_pem: bytes = field(repr=False)  # must not get into logs
    certificate_pem: bytes


def load_key_pair(key_file: Path, certificate_file: Path) -> KeyPair:
    """Read the key pair.

    Raises:
        ConfigError: others can read or change a file, or one is not there.
    """
    try:
        check_private(key_file)
        check_private(certificate_file)
        return KeyPair(key_file.read_bytes(), certificate_file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{error.filename} is not there", hint="start the allocator with --listen: it makes the key pair"
        ) from error


def ensure_key_pair(key_file: Path, certificate_file: Path) -> KeyPair:
    """Read the key pair, or make it if there is none; the directory must be 0700 already.

    Raises:
        ConfigError: as `load_key_pair`; a lonely certificate is replaced with its key.
    """
    if not key_file.exists():
        pair = make_key_pair()
        # The key last: whoever sees a key sees its certificate too.
        write_private(certificate_file, pair.certificate_pem)
        write_private(key_file, pair.key_pem)
    return load_key_pair(key_file, certificate_file)


def make_key_pair() -> KeyPair:
    """Make an EC key and a certificate that it signs itself and that can sign no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(key_pem, certificate.public_bytes(serialization.Encoding.PEM))
