"""A client follows its files: the authorities that it trusts are read again when they change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from hostport.client import AsyncClient, Client, Credentials, UnavailableError
from hostport.v1 import allocator_pb2 as pb
from testing.waiting import until


async def get_status(request: pb.GetStatusRequest, context: object) -> pb.GetStatusResponse:
    return pb.GetStatusResponse(version="1.2.3")


async def serving(authority: trustme.CA, answer: Any = get_status) -> tuple[grpc.aio.Server, str]:
    """A server that shows a certificate of this authority, and its address."""
    cert = authority.issue_cert("localhost")
    pair = (cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes())
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        answer, pb.GetStatusRequest.FromString, pb.GetStatusResponse.SerializeToString
    )
    server.add_registered_method_handlers("hostport.v1.AllocatorService", {"GetStatus": method})
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    return server, f"localhost:{port}"


async def test_an_authority_that_is_replaced_is_trusted_from_the_next_call_on(tmp_path: Path) -> None:
    old, new = trustme.CA(), trustme.CA()
    ca = tmp_path / "ca.crt"
    old.cert_pem.write_to_path(ca)
    server, address = await serving(new)
    async with AsyncClient(address, credentials=Credentials(ca=ca), connect_timeout=0.5) as client:
        with pytest.raises(UnavailableError):
            await client.call("GetStatus", pb.GetStatusRequest())

        new.cert_pem.write_to_path(ca)

        assert (await client.call("GetStatus", pb.GetStatusRequest(), timeout=30)).version == "1.2.3"
    await server.stop(grace=None)


async def test_a_call_that_is_under_way_when_a_file_changes_ends_as_if_it_had_not(tmp_path: Path) -> None:
    """Another thread may have begun it: its channel stays until it can no longer be in use."""
    authority, ca = trustme.CA(), tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(ca)
    asked, may_answer = [], asyncio.Event()

    async def answer(request: pb.GetStatusRequest, context: object) -> pb.GetStatusResponse:
        asked.append(request)
        if len(asked) == 1:
            await may_answer.wait()
        return pb.GetStatusResponse(version="1.2.3")

    server, address = await serving(authority, answer)
    with Client(address, credentials=Credentials(ca=ca)) as client:
        first = asyncio.create_task(asyncio.to_thread(client.call, "GetStatus", pb.GetStatusRequest()))
        await until(lambda: asked)
        ca.write_bytes(authority.cert_pem.bytes() + b"\n")
        second = await asyncio.to_thread(client.call, "GetStatus", pb.GetStatusRequest())
        may_answer.set()

        assert ((await first).version, second.version, len(asked)) == ("1.2.3", "1.2.3", 2)
    await server.stop(grace=None)


def test_a_file_that_cannot_be_used_is_told_and_read_again_when_it_can(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    trustme.CA().cert_pem.write_to_path(ca)
    with Client("localhost:1", credentials=Credentials(ca=ca), connect_timeout=0.1) as client:
        ca.write_text("half of a file", encoding="ascii")
        with pytest.raises(OSError, match=r"/ca\.crt holds no CA in PEM: "):
            client.call("GetStatus", pb.GetStatusRequest())

        trustme.CA().cert_pem.write_to_path(ca)

        with pytest.raises(UnavailableError):
            client.call("GetStatus", pb.GetStatusRequest())


def test_a_key_that_is_not_that_of_its_certificate_is_told_by_the_names_of_both(tmp_path: Path) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    trustme.CA().issue_cert("me").cert_chain_pems[0].write_to_path(cert)
    trustme.CA().issue_cert("me").private_key_pem.write_to_path(key)

    with pytest.raises(OSError, match=r"/tls\.crt and \S+/tls\.key are no certificate and its key in PEM: "):
        Client("localhost:1", credentials=Credentials(cert=cert, key=key), connect_timeout=0.1)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\xff\xfe", b"one\ntwo\n", b"Bearer eyJhbGciOi"],
    ids=["empty", "a line without a word", "no text", "two lines", "with what stands before a token in a header"],
)
def test_a_file_that_holds_no_token_is_told_by_its_name(tmp_path: Path, content: bytes) -> None:
    ca, token = tmp_path / "ca.crt", tmp_path / "token"
    trustme.CA().cert_pem.write_to_path(ca)
    token.write_bytes(content)

    with pytest.raises(OSError, match=r"/token holds no token: it has to be one word"):
        Client("localhost:1", credentials=Credentials(ca=ca, token_file=token))


def test_a_certificate_without_its_key_is_a_slip() -> None:
    with pytest.raises(ValueError, match="cert and key go together"):
        Credentials(cert=Path("tls.crt"))
