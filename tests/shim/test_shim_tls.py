from __future__ import annotations

import logging
import ssl
from pathlib import Path

import pytest
import trustme
from standin import Pair, issue

from shim.tls import Certificate


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return issue(trustme.CA(), tmp_path)


def loaded(pair: Pair) -> Certificate:
    return Certificate(cert=pair.cert, key=pair.key, minimum=ssl.TLSVersion.TLSv1_3)


def served(certificate: Certificate) -> bytes:
    """The certificate that a client is shown, by a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_bio(to_client, to_server)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_a_new_pair_is_served_without_a_restart(pair: Pair) -> None:
    certificate = loaded(pair)
    before, context = served(certificate), certificate.context

    pair.write(trustme.CA().issue_cert("127.0.0.1"))
    certificate.refresh()

    assert served(certificate) != before
    assert certificate.context is context


def test_a_swapped_symbolic_link_is_a_change(pair: Pair, tmp_path: Path) -> None:
    """As the kubelet updates a mounted Secret."""
    (tmp_path / "new").mkdir()
    fresh = issue(trustme.CA(), tmp_path / "new")
    links = Pair(tmp_path / "link.crt", tmp_path / "link.key")
    links.cert.symlink_to(pair.cert)
    links.key.symlink_to(pair.key)
    certificate = loaded(links)
    before = served(certificate)

    for link, target in ((links.cert, fresh.cert), (links.key, fresh.key)):
        (tmp_path / "tmp").symlink_to(target)
        (tmp_path / "tmp").replace(link)
    certificate.refresh()

    assert served(certificate) != before


def test_files_that_did_not_change_are_not_read(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    certificate = loaded(pair)

    certificate.refresh()

    assert caplog.messages == []


def _half_a_pair(pair: Pair) -> None:
    pair.cert.write_bytes(trustme.CA().issue_cert("127.0.0.1").cert_chain_pems[0].bytes())


def _no_pem(pair: Pair) -> None:
    pair.cert.write_bytes(b"not a certificate")


def _gone(pair: Pair) -> None:
    pair.key.unlink()


@pytest.mark.parametrize("break_it", [_half_a_pair, _no_pem, _gone])
def test_a_broken_pair_is_logged_once_and_the_old_one_stays(
    pair: Pair, break_it: object, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = loaded(pair)
    before = served(certificate)

    assert callable(break_it)
    break_it(pair)
    certificate.refresh()
    certificate.refresh()

    assert served(certificate) == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_second_half_of_a_pair_completes_it(pair: Pair) -> None:
    certificate = loaded(pair)
    before = served(certificate)
    leaf = trustme.CA().issue_cert("127.0.0.1")

    pair.cert.write_bytes(leaf.cert_chain_pems[0].bytes())
    certificate.refresh()
    pair.key.write_bytes(leaf.private_key_pem.bytes())
    certificate.refresh()

    assert served(certificate) != before


def test_a_pair_that_changes_while_it_is_read_is_tried_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = loaded(pair)
    before = served(certificate)
    pair.write(trustme.CA().issue_cert("127.0.0.1"))
    load, calls = Certificate._load_into, []

    def flaky(self: Certificate, context: ssl.SSLContext) -> None:
        calls.append(context)
        if len(calls) == 2:
            raise ssl.SSLError("key values mismatch")
        load(self, context)

    monkeypatch.setattr(Certificate, "_load_into", flaky)
    certificate.refresh()
    certificate.refresh()

    assert served(certificate) != before


def test_a_key_with_a_password_is_an_error_and_no_question(pair: Pair) -> None:
    pair.key.write_text(ENCRYPTED_KEY)

    with pytest.raises(OSError, match=r"."):
        loaded(pair)


def test_a_missing_file_is_an_error_at_the_start(pair: Pair) -> None:
    pair.cert.unlink()

    with pytest.raises(FileNotFoundError):
        loaded(pair)


ENCRYPTED_KEY = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgAAAAAAAAAAAICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEAAAAAAAAAAAAAAAAAAAAAAEgZAA
-----END ENCRYPTED PRIVATE KEY-----
"""
