from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from shimkit import granted
from standin import Answering, Context, Pair, StandIn, issue, refusing, serving

from hostport.contract import Mistake
from hostport.credentials import Credentials
from hostport.flags import Address
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.client import AllocatorClient
from shim.outcomes import Refusal, Unreachable

Outcome = AllocateResponse | Refusal | Unreachable
NOW = asyncio.get_running_loop


@asynccontextmanager
async def connected(address: Address, credentials: Credentials | None = None) -> AsyncIterator[AllocatorClient]:
    client = AllocatorClient(address, credentials or Credentials())
    try:
        yield client
    finally:
        await client.close()


async def asked(answer: Answering, *, patience: float = 5.0) -> Outcome:
    async with serving(StandIn(answer)) as address, connected(address) as client:
        return await client.allocate(AllocateRequest(), deadline=NOW().time() + patience)


async def test_an_answer_comes_through() -> None:
    response = granted(("a", "web", 80, 7000))

    async def answer(_: AllocateRequest, __: Context) -> AllocateResponse:
        return response

    assert await asked(answer) == response


async def test_no_proxy_that_the_environment_names_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("http_proxy", "http://127.0.0.1:1"), ("no_proxy", "")):
        monkeypatch.setenv(name, value)

    async def answer(_: AllocateRequest, __: Context) -> AllocateResponse:
        return AllocateResponse()

    assert await asked(answer) == AllocateResponse()


INVALID, PRECONDITION, EXHAUSTED, UNAVAILABLE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            refusing(INVALID, "NO_INDEX", ("index", "none", "NO_INDEX"), ("ports[0]", "bad", "OWN_PORTS_COLLIDE")),
            Refusal(422, (Mistake("NO_INDEX", "index", "none"), Mistake("OWN_PORTS_COLLIDE", "ports[0]", "bad"))),
            id="every violation is a mistake",
        ),
        pytest.param(
            refusing(INVALID, "NO_INDEX", ("index", "none", "")),
            Refusal(422, (Mistake("NO_INDEX", "index", "none"),)),
            id="a violation without a reason has the status's",
        ),
        pytest.param(
            refusing(PRECONDITION, "PORT_CONFLICT", message="80 is taken"),
            Refusal(403, (Mistake("PORT_CONFLICT", "", "80 is taken"),)),
            id="a conflict",
        ),
        pytest.param(
            refusing(EXHAUSTED, "RANGE_EXHAUSTED"),
            Refusal(403, (Mistake("RANGE_EXHAUSTED", "", "no"),)),
            id="a range exhausted",
        ),
        pytest.param(
            refusing(UNAVAILABLE, "NOT_SERVING", message="starting"),
            Unreachable("NOT_SERVING", "starting"),
            id="our own words for a failure",
        ),
        pytest.param(
            refusing(EXHAUSTED, "X", domain="example.org", message="too large"),
            Unreachable("ALLOCATOR_UNREACHABLE", "no answer from the allocator: RESOURCE_EXHAUSTED: too large"),
            id="somebody else's words",
        ),
    ],
)
async def test_an_error_is_a_refusal_or_no_answer(answer: Answering, expected: Outcome) -> None:
    assert await asked(answer) == expected


async def test_a_refusal_without_details_is_no_answer() -> None:
    async def answer(_: AllocateRequest, context: Context) -> AllocateResponse:
        await context.abort(INVALID, "who says so?")
        raise AssertionError

    expected = "no answer from the allocator: INVALID_ARGUMENT: who says so?"
    assert await asked(answer) == Unreachable("ALLOCATOR_UNREACHABLE", expected)


async def test_details_that_contradict_the_status_are_not_believed() -> None:
    async def answer(_: AllocateRequest, context: Context) -> AllocateResponse:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05\x12\x01x"),))
        await context.abort(INVALID, "no")
        raise AssertionError

    assert isinstance(await asked(answer), Unreachable)


async def test_a_slow_allocator_is_given_up_at_the_deadline() -> None:
    async def answer(_: AllocateRequest, __: Context) -> AllocateResponse:
        await asyncio.Event().wait()  # for ever
        raise AssertionError

    before = NOW().time()
    outcome = await asked(answer, patience=0.1)

    assert isinstance(outcome, Unreachable)
    assert "DEADLINE_EXCEEDED" in outcome.message
    assert NOW().time() - before < 5


async def test_nothing_is_asked_after_the_deadline() -> None:
    servicer = StandIn()
    async with serving(servicer) as address, connected(address) as client:
        outcome = await client.allocate(AllocateRequest(), deadline=NOW().time())

    assert isinstance(outcome, Unreachable)
    assert servicer.asked == []


async def test_an_absent_allocator_is_waited_for_until_the_deadline() -> None:
    async with connected(Address("127.0.0.1", 1)) as client:
        before = NOW().time()
        outcome = await client.allocate(AllocateRequest(), deadline=before + 0.2)

    assert isinstance(outcome, Unreachable)
    assert 0.1 < NOW().time() - before < 5


async def test_an_allocator_that_returns_is_found_within_a_second() -> None:
    async with serving(StandIn()) as address:
        pass
    async with connected(address) as client:
        await client.allocate(AllocateRequest(), deadline=NOW().time() + 0.2)
        async with serving(StandIn(), port=address.port):
            before = NOW().time()
            outcome = await client.allocate(AllocateRequest(), deadline=before + 5)

    assert isinstance(outcome, AllocateResponse)
    assert NOW().time() - before < 1.5


async def test_a_call_is_repeated_when_the_allocator_goes_away_under_it() -> None:
    servicer = StandIn()
    grant = servicer.answer

    async def answer(request: AllocateRequest, context: Context) -> AllocateResponse:
        if len(servicer.asked) < 3:
            await context.abort(UNAVAILABLE, "going away")
        return await grant(request, context)

    servicer.answer = answer
    async with serving(servicer) as address, connected(address) as client:
        outcome = await client.allocate(AllocateRequest(request_id="r"), deadline=NOW().time() + 5)

    assert isinstance(outcome, AllocateResponse)
    assert [request.request_id for request in servicer.asked] == ["r", "r", "r"]


# -- TLS, both ways


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def server_credentials(authority: trustme.CA) -> grpc.ServerCredentials:
    leaf = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    pair = (leaf.private_key_pem.bytes(), chain)
    return grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)


def client_credentials(authority: trustme.CA, folder: Path) -> tuple[Credentials, Pair]:
    (folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
    pair = issue(authority, folder, "shim")
    return Credentials(ca=folder / "ca.crt", cert=pair.cert, key=pair.key), pair


async def test_both_sides_show_certificates(authority: trustme.CA, tmp_path: Path) -> None:
    credentials, _ = client_credentials(authority, tmp_path)
    async with (
        serving(StandIn(), credentials=server_credentials(authority)) as address,
        connected(address, credentials) as client,
    ):
        outcome = await client.allocate(AllocateRequest(), deadline=NOW().time() + 5)

    assert isinstance(outcome, AllocateResponse)


async def test_credentials_are_taken_up_when_they_change(authority: trustme.CA, tmp_path: Path) -> None:
    credentials, pair = client_credentials(authority, tmp_path)
    pair.write(trustme.CA().issue_cert("stranger"))
    async with (
        serving(StandIn(), credentials=server_credentials(authority)) as address,
        connected(address, credentials) as client,
    ):
        stranger = await client.allocate(AllocateRequest(), deadline=NOW().time() + 0.2)
        pair.write(authority.issue_cert("shim"))
        client.refresh()
        known = await client.allocate(AllocateRequest(), deadline=NOW().time() + 5)

    assert isinstance(stranger, Unreachable)
    assert isinstance(known, AllocateResponse)


async def test_credentials_that_are_swapped_while_they_are_read_are_read_again(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials, pair = client_credentials(authority, tmp_path)
    load, swaps = Credentials.load, [True]

    def swapped(self: Credentials) -> grpc.ChannelCredentials | None:
        loaded = load(self)
        if swaps:
            swaps.clear()
            pair.write(authority.issue_cert("shim"))
        return loaded

    async with (
        serving(StandIn(), credentials=server_credentials(authority)) as address,
        connected(address, credentials) as client,
    ):
        standing = client._channel
        pair.write(trustme.CA().issue_cert("stranger"))
        monkeypatch.setattr(Credentials, "load", swapped)
        client.refresh()
        assert client._channel is standing
        client.refresh()
        assert client._channel is not standing
        outcome = await client.allocate(AllocateRequest(), deadline=NOW().time() + 5)

    assert isinstance(outcome, AllocateResponse)


async def test_broken_credentials_are_refused_and_the_old_ones_stay(authority: trustme.CA, tmp_path: Path) -> None:
    credentials, pair = client_credentials(authority, tmp_path)
    async with (
        serving(StandIn(), credentials=server_credentials(authority)) as address,
        connected(address, credentials) as client,
    ):
        pair.key.write_bytes(b"no key")
        with pytest.raises(OSError, match="PEM"):
            client.refresh()
        outcome = await client.allocate(AllocateRequest(), deadline=NOW().time() + 5)

    assert isinstance(outcome, AllocateResponse)
