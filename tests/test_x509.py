"""When certificates end, as their authors meant it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from hostport.x509 import not_after


@pytest.mark.parametrize("year", [1999, 2030, 2049, 2050, 2090])
def test_the_end_of_a_certificate_is_read(year: int) -> None:
    end = datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)
    leaf = trustme.CA().issue_cert("localhost", not_before=datetime(1998, 1, 1, tzinfo=UTC), not_after=end)

    assert not_after(leaf.cert_chain_pems[0].bytes().decode()) == end.timestamp()


def test_the_first_of_a_chain_counts_and_a_key_before_it_does_not() -> None:
    leaf = trustme.CA().issue_cert("localhost", not_after=datetime(2031, 1, 1, tzinfo=UTC))
    other = trustme.CA().cert_pem.bytes().decode()

    text = leaf.private_key_and_cert_chain_pem.bytes().decode() + other

    assert not_after(text) == datetime(2031, 1, 1, tzinfo=UTC).timestamp()


def test_a_large_key_changes_nothing() -> None:
    """Lengths of more than one byte, everywhere."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "x" * 60)])
    end = datetime(2040, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 2**150, datetime(2020, 1, 1, tzinfo=UTC), end)
    from cryptography.hazmat.primitives.hashes import SHA256

    pem = builder.sign(key, SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    assert not_after(pem) == end.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
    ids=["empty", "text", "an empty sequence", "no base64", "cut off"],
)
def test_what_is_no_certificate_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError):
        not_after(text)
