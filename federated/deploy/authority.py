"""A federation's own certificate authority: one certificate that everybody pins, and the coordinator's server certificate under it.

ECDSA P-256, X.509 v3 (RFC 5280). The authority's key signs server certificates alone (path length 0), and is needed again only for the next
one: keep it off the coordinator. TLS here proves who the coordinator is; nodes and analysts prove themselves by their own keys.

Where an authority ends, or its key is lost, another follows: parties append its certificate to their ca.crt, trusting both; the coordinator
gets a certificate under the new one; and the old one is taken out.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import pathlib
import re

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox.errors import CatalogError, KeyUnusable, ParameterError
from sandbox.keys import write_atomically

CA_DAYS = 3650
SERVER_DAYS = 397  # what common TLS clients accept at most
MARGIN = datetime.timedelta(hours=1)  # for clocks that are behind
_DNS = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\Z")


def new_authority(directory: pathlib.Path, federation: str) -> None:
    """Write ca.crt and ca.key (0600)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{federation} federation")
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(directory / "ca.key", _private(key))
    (directory / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def new_certificate(authority: pathlib.Path, directory: pathlib.Path, hosts: tuple[str, ...]) -> None:
    """Write tls.crt and tls.key (0600) for these names and addresses, signed by the authority in `authority`."""
    if not hosts:
        raise ParameterError("'hosts' is empty; a certificate needs at least one name or address")
    names = [_host(host) for host in hosts]
    key = ec.generate_private_key(ec.SECP256R1())
    signer, issuer = _read_key(authority / "ca.key"), read_certificate(authority / "ca.crt")
    if issuer.public_key() != signer.public_key():
        raise KeyUnusable(f"{str(authority / 'ca.key')!r} is not the key of the certificate beside it")
    left = issuer.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    if left <= MARGIN:
        raise CatalogError(f"{str(authority / 'ca.crt')!r} has ended: another authority must follow it")
    certificate = (
        _builder(_name(hosts[0]), issuer.subject, key.public_key(), SERVER_DAYS, issuer.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    write_atomically(directory / "tls.key", _private(key))
    write_atomically(directory / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM))


def new_link_key(path: pathlib.Path) -> bytes:
    """Write a node's link key (ECDSA P-384, OpenSSH, 0600); its public line."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public + b"\n"


def expires(path: pathlib.Path) -> datetime.datetime:
    """When the certificate in a file ends, UTC; of several the last."""
    return max(certificate.not_valid_after_utc for certificate in read_certificates(path))


def read_certificate(path: pathlib.Path) -> x509.Certificate:
    """The first certificate in a PEM file; raises `CatalogError`."""
    return read_certificates(path)[0]


def read_certificates(path: pathlib.Path) -> list[x509.Certificate]:
    """All certificates in a PEM file, one at least; raises `CatalogError`."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        raise CatalogError(f"{str(path)!r} is no certificate") from None


def write_private(path: pathlib.Path, data: bytes) -> None:
    """A new file of mode 0600; raises `KeyUnusable` where one exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise KeyUnusable(f"{str(path)!r} exists; a key is never overwritten") from None
    with open(descriptor, "wb") as file:
        file.write(data)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    days: int,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    """Valid for so many days, but not after `latest`."""
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - MARGIN)
        .not_valid_after(end if latest is None else min(end, latest))
    )


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _DNS.match(host) or len(host) > 253:
            raise ParameterError(
                f"host {host!r}: allowed are an address, or a name of letters, digits, '-' and '.'"
            ) from None
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: pathlib.Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise KeyUnusable(f"{str(path)!r} cannot be used: {type(error).__name__}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyUnusable(f"{str(path)!r} is not an ECDSA key")
    return key
