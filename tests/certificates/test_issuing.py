"""What the certificates say, held against the verifier of `cryptography` and against OpenSSL."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from allocator.certificates.issuing import (
    CLIENT,
    SERVER,
    CertificateSubject,
    Pair,
    ends,
    issue,
    new_authority,
    pem,
    read_all,
    read_pair,
    renewal,
)

NOW = 1_800_000_000.0
SERVER_ONLY = CertificateSubject(name="a", alternatives=("a.svc", "::1"))
BOTH = CertificateSubject(name="hostport-shim", alternatives=("hostport-shim.demo.svc",), usages=(SERVER, CLIENT))


@pytest.fixture(scope="module")
def authority() -> Pair:
    return new_authority(now=NOW, seconds=1000)


def policy(authority: Pair, *, at: float) -> PolicyBuilder:
    return PolicyBuilder().store(Store([authority.certificate])).time(datetime.fromtimestamp(at, UTC))


def test_a_certificate_is_good_for_its_names(authority: Pair) -> None:
    leaf = issue(authority, BOTH, now=NOW, seconds=100).certificate

    verifier = policy(authority, at=NOW).build_server_verifier(x509.DNSName("hostport-shim.demo.svc"))
    assert verifier.verify(leaf, []) == [leaf, authority.certificate]
    with pytest.raises(VerificationError):
        policy(authority, at=NOW).build_server_verifier(x509.DNSName("other.demo.svc")).verify(leaf, [])


def test_it_is_a_clients_where_that_was_asked_for(authority: Pair) -> None:
    both = issue(authority, BOTH, now=NOW, seconds=100).certificate
    server = issue(authority, SERVER_ONLY, now=NOW, seconds=100).certificate

    verifier = policy(authority, at=NOW).build_client_verifier()
    assert verifier.verify(both, []).chain == [both, authority.certificate]
    with pytest.raises(VerificationError):
        verifier.verify(server, [])


@pytest.mark.parametrize(("at", "is_good"), [(NOW - 11, False), (NOW - 9, True), (NOW + 99, True), (NOW + 101, False)])
def test_it_is_good_for_its_time_and_a_little_before(authority: Pair, at: float, *, is_good: bool) -> None:
    leaf = issue(authority, BOTH, now=NOW, seconds=100).certificate
    verifier = policy(authority, at=at).build_server_verifier(x509.DNSName("hostport-shim.demo.svc"))

    if is_good:
        verifier.verify(leaf, [])
    else:
        with pytest.raises(VerificationError):
            verifier.verify(leaf, [])


def test_it_does_not_outlive_its_authority(authority: Pair) -> None:
    leaf = issue(authority, BOTH, now=NOW, seconds=5000).certificate

    assert ends(leaf) == ends(authority.certificate)


def test_it_is_due_after_two_thirds_of_its_life(authority: Pair) -> None:
    leaf = issue(authority, BOTH, now=NOW, seconds=100).certificate

    assert renewal(leaf) == pytest.approx(NOW - 10 + 110 * 2 / 3)


def test_a_certificate_cannot_sign_another(authority: Pair) -> None:
    leaf = issue(authority, BOTH, now=NOW, seconds=100)
    forged = issue(leaf, BOTH, now=NOW, seconds=50).certificate

    verifier = policy(authority, at=NOW).build_server_verifier(x509.DNSName("hostport-shim.demo.svc"))
    with pytest.raises(VerificationError):
        verifier.verify(forged, [leaf.certificate])


def test_no_two_authorities_have_the_same_name() -> None:
    names = {new_authority(now=NOW, seconds=100).certificate.subject for _ in range(3)}

    assert len(names) == 3


def test_openssl_takes_it(authority: Pair, tmp_path: Path) -> None:
    leaf = issue(authority, BOTH, now=NOW, seconds=100)
    (tmp_path / "crt").write_text(pem([leaf.certificate]))
    (tmp_path / "key").write_text(leaf.key)

    ssl.create_default_context(cadata=pem([authority.certificate]))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "crt", tmp_path / "key")


def test_a_pair_is_read_as_it_was_written(authority: Pair) -> None:
    leaf = issue(authority, BOTH, now=NOW, seconds=100)

    assert read_pair(pem([leaf.certificate]), leaf.key) == leaf


def test_an_authority_of_rsa_is_taken_too() -> None:
    """cert-manager makes one where it is not told otherwise."""
    foreign = trustme.CA(key_type=trustme.KeyType.RSA)
    pair = read_pair(foreign.cert_pem.bytes().decode(), foreign.private_key_pem.bytes().decode())

    leaf = issue(pair, SERVER_ONLY, now=NOW, seconds=100).certificate

    leaf.verify_directly_issued_by(pair.certificate)


@pytest.mark.parametrize(
    ("cert", "key", "complaint"),
    [
        ("", "key", "no certificate can be read"),
        ("cert", "", "no key can be read"),
        ("cert", "nonsense", "no key can be read"),
        ("cert", "other", "the key is not the certificate's"),
    ],
)
def test_what_is_no_pair_is_told(authority: Pair, cert: str, key: str, complaint: str) -> None:
    leaf, other = (issue(authority, BOTH, now=NOW, seconds=100) for _ in range(2))
    texts = {"cert": pem([leaf.certificate]), "key": leaf.key, "other": other.key}

    with pytest.raises(ValueError, match=complaint):
        read_pair(texts.get(cert, cert), texts.get(key, key))


def test_a_bundle_that_cannot_be_read_has_nobody_in_it() -> None:
    assert read_all("nobody") == ()
