"""No token and no key is ever logged or answered, whatever goes wrong with it. Everything that logs is listened to, debugging included."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from access.reviewing import ReviewServer, account
from access.secured import Secured, lease
from allocator.certificates.serving import CertificateFiles
from allocator.cluster.credentials import ClusterConfigError, loader
from hostport.credentials import Credentials
from hostport.logs import JsonFormatter
from hostport.v1 import allocator_pb2 as pb
from shim.tls import VERSIONS, Certificate

SECRET = "hushhushhush"


class Listener:
    """Everything that was said: each log line as it is written, and each error with its causes."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._errors: list[str] = []

    def note(self, error: BaseException) -> None:
        self._errors += traceback.format_exception(error)

    def heard(self) -> str:
        lines = [JsonFormatter().format(record) for record in self._caplog.records]
        return "\n".join([*lines, *self._errors])


@pytest.fixture
def listener(caplog: pytest.LogCaptureFixture) -> Listener:
    caplog.set_level(logging.DEBUG)
    return Listener(caplog)


async def call_all(secured: Secured, token: str, listener: Listener, *, scheme: str = "Bearer") -> set[str]:
    stub = await secured.bearing(token, scheme=scheme)
    outcomes = set()
    for method, request in {
        "Allocate": lease(),
        "Renew": pb.RenewRequest(id="0" * 32),
        "Release": pb.ReleaseRequest(id="0" * 32),
        "ListNodes": pb.ListNodesRequest(),
    }.items():
        try:
            await stub(method, request)
        except grpc.aio.AioRpcError as error:
            listener.note(error)
            trailers = error.trailing_metadata() or ()
            assert SECRET not in "".join(repr(each) for each in trailers)
            outcomes.add(error.code().name)
        else:
            outcomes.add("OK")
    return outcomes


async def test_a_token_is_never_told(
    secured: Secured, server: ReviewServer, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted, without rights, refused, too long, in the wrong scheme; reviewed by a server that fails, repeats it, hangs, is gone."""
    token = f"{SECRET}-accepted"
    server.add(token, account("media", "relay"))
    seen = [await call_all(secured, token, listener)]
    server.grant(account("media", "relay"), "create", "media")
    secured.clock.now += 10
    seen.append(await call_all(secured, token, listener))
    seen += [await call_all(secured, f"{SECRET}-{what}", listener) for what in ("unknown", "x" * 9000)]
    seen.append(await call_all(secured, token, listener, scheme="Basic"))
    for status, body in (
        (500, {"kind": "Status", "message": f"token {SECRET} is odd", "reason": SECRET}),
        (201, {"status": {"error": f"token {SECRET} is odd"}}),
        (201, SECRET),
        (201, {"status": SECRET}),
    ):
        server.status, server.body = status, body
        secured.clock.now += 10
        seen.append(await call_all(secured, token, listener))
    monkeypatch.setattr("allocator.access.reviews.PATIENCE_SECONDS", 0.05)
    server.open.clear()
    secured.clock.now += 10
    seen.append(await call_all(secured, token, listener))
    server.open.set()
    await server.stop()
    secured.clock.now += 10
    seen.append(await call_all(secured, token, listener))

    assert set().union(*seen) >= {"OK", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "NOT_FOUND"}
    assert "ACCESS_UNKNOWN" in listener.heard()
    assert SECRET not in listener.heard()


def broken(key: str) -> list[str]:
    """A private key as it may be found: whole, cut, with a torn line, as no PEM at all."""
    lines = key.splitlines()
    return [key, key[: len(key) // 2], "\n".join([lines[0], lines[1][:-7], *lines[2:]]), "".join(lines[1:-1])]


async def test_a_private_key_is_never_told(tmp_path: Path, listener: Listener) -> None:
    """Loaded, swapped for a foreign one, torn, missing: by the shim's server, its client, and the allocator."""
    pair, other = (trustme.CA().issue_cert("127.0.0.1") for _ in range(2))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(pair.cert_chain_pems[0].bytes())
    keys = [each.private_key_pem.bytes().decode() for each in (pair, other)]
    key.write_text(keys[0], encoding="ascii")
    webhook = Certificate(cert=cert, key=key, minimum=VERSIONS["1.3"])
    service = CertificateFiles(cert=cert, key=key, client_ca=None)
    for text in [*broken(keys[0]), *broken(keys[1]), ""]:
        key.write_text(text, encoding="ascii")
        webhook.refresh()
        service.fresh()
        for load in (
            lambda: Credentials(ca=cert, cert=cert, key=key).load(),
            lambda: CertificateFiles(cert=cert, key=key, client_ca=None),
            lambda: Certificate(cert=cert, key=key, minimum=VERSIONS["1.3"]),
        ):
            try:
                load()
            except OSError as error:
                listener.note(error)

    heard = listener.heard()
    assert "is not used, the old one stays" in heard
    assert [line for each in keys for line in each.splitlines()[1:-1] if line in heard] == []


async def test_a_kubeconfig_that_cannot_be_used_is_not_told(tmp_path: Path, listener: Listener) -> None:
    path = tmp_path / "config"
    user: dict[str, Any] = {"name": "u", "user": {"token": SECRET, "client-key-data": SECRET}}
    whole = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "users": [user],
        "current-context": "x",
    }
    for text in (
        json.dumps(whole),
        json.dumps(whole | {"current-context": "y"}),
        json.dumps({"users": [user]}),
        f"token: [{SECRET}",
    ):
        path.write_text(text, encoding="utf-8")
        try:
            await asyncio.wait_for(loader(str(path), {})(), 5)
        except ClusterConfigError as error:
            listener.note(error)

    assert "no way to reach a cluster is known" in listener.heard()
    assert SECRET not in listener.heard()
