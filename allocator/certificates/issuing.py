"""Certificates and their keys: made, read, and asked how long they are good. ECDSA on P-256.

A full handshake costs a Python server 0.2 ms with P-256, twice as much with RSA-2048 and four times with P-384.

Nothing here reads a clock: `now` is passed in, seconds since the epoch. Keys and serial numbers are chance.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLOCK_SKEW_SECONDS = 300.0
"""Certificates are good from so long before they were made, or a tenth of their life: other clocks may be behind."""

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key as PEM, which no log shows."""

    certificate: x509.Certificate
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSubject:
    """What a certificate is for: a common name, DNS names and addresses, and whether its holder serves or calls."""

    name: str
    alternatives: tuple[str, ...] = ()
    usages: tuple[x509.ObjectIdentifier, ...] = (SERVER,)


def new_authority(*, now: float, seconds: float) -> Pair:
    """A root of its own. No two have the same name: while one follows another, chains must not be ambiguous."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = _common_name(f"hostport-ca-{serial:x}"[:24])
    builder = _begun(name, name, key, now, seconds).serial_number(serial)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=True), critical=True)
    return Pair(builder.sign(key, SHA256()), _key_pem(key))


def issue(authority: Pair, identity: CertificateSubject, *, now: float, seconds: float) -> Pair:
    """A certificate with a key of its own, which does not outlive the authority's."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = signing_key(authority.key)
    seconds = min(seconds, ends(authority.certificate) - now)
    builder = _begun(_common_name(identity.name), authority.certificate.subject, key, now, seconds)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(is_authority=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(identity.usages), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    names = x509.SubjectAlternativeName([_alternative(text) for text in identity.alternatives])
    return Pair(builder.add_extension(names, critical=False).sign(signer, SHA256()), _key_pem(key))


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, seconds: float
) -> x509.CertificateBuilder:
    public = key.public_key()
    begin = now - min(CLOCK_SKEW_SECONDS, seconds / 10)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public)
    builder = builder.not_valid_before(_utc_of(begin)).not_valid_after(_utc_of(now + seconds))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _utc_of(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# -- what stands


def ends(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def renewal(certificate: x509.Certificate) -> float:
    """When two thirds of its life are over."""
    begins = certificate.not_valid_before_utc.timestamp()
    return begins + (ends(certificate) - begins) * 2 / 3


def is_from(authority: Pair, certificate: x509.Certificate) -> bool:
    """Whether this authority signed it."""
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def fits(certificate: x509.Certificate, identity: CertificateSubject) -> bool:
    """Whether it says what it should."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return (
        certificate.subject == _common_name(identity.name)
        and set(names) == set(map(_alternative, identity.alternatives))
        and set(usages) == set(identity.usages)
    )


# -- PEM


def pem(certificates: Iterable[x509.Certificate]) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in certificates)


def parse_all(text: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a bundle, which may be empty.

    Raises:
        ValueError: it cannot be read.

    """
    return tuple(x509.load_pem_x509_certificates(text.encode())) if text else ()


def read_all(text: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a bundle; none where it cannot be read."""
    try:
        return parse_all(text)
    except ValueError:
        return ()


def read_pair(certificate: str, key: str) -> Pair:
    """A certificate and its key.

    Raises:
        ValueError: they cannot be read, or are not each other's. The message has nothing of the key.

    """
    found = read_all(certificate)
    if not found:
        raise ValueError("no certificate can be read")
    if _public(signing_key(key)) != _public(found[0]):
        raise ValueError("the key is not the certificate's")
    return Pair(found[0], key)


def signing_key(text: str) -> SigningKey:
    """Raises ValueError when it is none, or none that can sign here."""
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it wants a password
        raise ValueError("no key can be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the key is neither EC nor RSA")  # noqa: TRY004 - the text is wrong, not a type
    return key


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others: its basic constraints say so (RFC 5280, section 4.2.1.9)."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _public(holder: SigningKey | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
