"""Certificates change under load, on both legs at once: no request fails, and none of a stranger's is let in."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import contains
from pathlib import Path

import aiohttp
import grpc
import pytest
from shimkit import body, container, pod, port, review
from standin import Context, StandIn, serving

from allocator.certificates.issuing import CLIENT, SERVER, CertificateSubject, Pair, issue, new_authority, pem
from allocator.certificates.serving import BuiltInCertificate
from hostport.credentials import Credentials
from hostport.flags import Address
from hostport.supervision import Loops
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from hostport.v1.allocator_pb2_grpc import AllocatorServiceStub
from shim import runtime
from shim.runtime import Shim, ShimOptions
from testing.waiting import until

ANYWHERE = Address("127.0.0.1", 0)
SHIM = CertificateSubject(name="hostport-shim", alternatives=("127.0.0.1",), usages=(SERVER, CLIENT))
ALLOCATOR = CertificateSubject(name="hostport-allocator", alternatives=("127.0.0.1",))
HOUR = 3600.0
RELOADS = 20
SLOW = 0.3  # seconds that every tenth decision takes: longer than the time between two reloads
WEB = body(review(pod(container("a", port("web")))))


@dataclass(frozen=True)
class Stage:
    """What is in use between two changes."""

    trusted: str
    shim: Pair
    allocator: Pair


def certified(authority: Pair, *trusted: Pair) -> Stage:
    leaves = [issue(authority, identity, now=time.time(), seconds=HOUR) for identity in (SHIM, ALLOCATOR)]
    return Stage(pem(each.certificate for each in trusted), *leaves)


def stages() -> Iterator[Stage]:
    """Authority after authority: first the successor is trusted, then it signs."""
    old = new_authority(now=time.time(), seconds=HOUR)
    yield (stage := certified(old, old))
    for _ in range(RELOADS // 2):
        new = new_authority(now=time.time(), seconds=HOUR)
        yield Stage(pem([old.certificate, new.certificate]), stage.shim, stage.allocator)
        yield (stage := certified(new, old, new))
        old = new


class Mounted:
    """The shims' Secret, as a kubelet shows it: all files change at once, by one link."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / name).symlink_to(f"..data/{name}")

    def show(self, stage: Stage) -> None:
        self._number += 1
        content = self._folder / f"..{self._number}"
        content.mkdir()
        (content / "tls.crt").write_text(pem([stage.shim.certificate]))
        (content / "tls.key").write_text(stage.shim.key)
        (content / "ca.crt").write_text(stage.trusted)
        (self._folder / "..new").symlink_to(content.name)
        (self._folder / "..new").replace(self._folder / "..data")

    @property
    def options(self) -> ShimOptions:
        cert, key, ca = (self._folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        return ShimOptions(
            listen=ANYWHERE,
            http=ANYWHERE,
            allocator=ANYWHERE,
            tls_cert=cert,
            tls_key=key,
            credentials=Credentials(ca=ca, cert=cert, key=key),
        )


@dataclass
class Load:
    """Clients as the API server is one: some with a connection that stands, some with one for each request."""

    url: str
    trust: ssl.SSLContext
    answers: list[str] = field(default_factory=list)

    async def answered(self, more: int) -> None:
        """Waits for so many further answers, however fast this machine is."""
        wanted = len(self.answers) + more
        await until(lambda: len(self.answers) >= wanted)

    def trusts(self, stage: Stage) -> None:
        self.trust = ssl.create_default_context(cadata=stage.trusted)

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        done = asyncio.Event()
        clients = [asyncio.create_task(self._ask(done, stands=number % 2 == 0)) for number in range(6)]
        try:
            yield
        finally:
            done.set()
            await asyncio.gather(*clients)

    async def _ask(self, done: asyncio.Event, *, stands: bool) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=not stands)) as session:
            while not done.is_set():
                self.answers.append(await self._once(session))

    async def _once(self, session: aiohttp.ClientSession) -> str:
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(f"{self.url}/mutate?timeout=5s", data=WEB, headers=headers, ssl=self.trust) as got:
                return "allowed" if (await got.json())["response"]["allowed"] else "denied"
        except (aiohttp.ClientError, OSError, KeyError) as error:
            return repr(error)


def shown_by(pair: Pair) -> bytes:
    """The certificate as gRPC tells of it."""
    return pem([pair.certificate]).encode()


def counting(seen: set[bytes]) -> StandIn:
    """An allocator that notes who asks, and is slow now and then."""
    allocator = StandIn()
    grant = allocator.answer

    async def answer(request: AllocateRequest, context: Context) -> AllocateResponse:
        seen.update(context.auth_context()["x509_pem_cert"])
        if len(allocator.asked) % 10 == 0:
            await asyncio.sleep(SLOW)
        return await grant(request, context)

    allocator.answer = answer
    return allocator


async def test_no_request_fails_through_twenty_reloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "POLL", 0.02)
    callers: set[bytes] = set()
    first, *later = stages()
    mounted, server = Mounted(tmp_path), BuiltInCertificate(now=time.time())
    mounted.show(first)
    server.serve(first.allocator, first.trusted)
    async with serving(counting(callers), credentials=server.credentials(asks_clients=True)) as address:
        shim = Shim(replace(mounted.options, allocator=address))
        load = Load(shim.url, ssl.create_default_context(cadata=first.trusted))
        async with load.going(), Loops() as loops:
            loops.start("files", shim.follow_files())
            for number, stage in enumerate(later):
                await asyncio.sleep(0.1)
                changes: list[Callable[[Stage], None]] = [
                    load.trusts,
                    mounted.show,
                    lambda stage: server.serve(stage.allocator, stage.trusted),
                ]
                for change in changes[number % 3 :] + changes[: number % 3]:
                    change(stage)
                    await asyncio.sleep(0.05)
                await until(partial(contains, callers, shown_by(stage.shim)))
                await load.answered(10)
        await shim.stop()

    assert set(load.answers) == {"allowed"}
    assert len(callers) == 1 + RELOADS // 2


def _expired(authority: Pair) -> Pair:
    return issue(authority, SHIM, now=time.time() - 100, seconds=99)


def _of_a_stranger(authority: Pair) -> Pair:
    return issue(new_authority(now=time.time(), seconds=HOUR), SHIM, now=time.time(), seconds=HOUR)


def _of_a_namesake(authority: Pair) -> Pair:
    """Its authority has the name of ours, and another key."""
    stranger = new_authority(now=time.time(), seconds=HOUR)
    return issue(Pair(authority.certificate, stranger.key), SHIM, now=time.time(), seconds=HOUR)


def _of_a_shim(authority: Pair) -> Pair:
    """A leaf is no authority."""
    shim = issue(authority, SHIM, now=time.time(), seconds=HOUR)
    return issue(shim, SHIM, now=time.time(), seconds=HOUR)


def _for_servers(authority: Pair) -> Pair:
    return issue(authority, ALLOCATOR, now=time.time(), seconds=HOUR)


def _good(authority: Pair) -> Pair:
    return issue(authority, SHIM, now=time.time(), seconds=HOUR)


@pytest.mark.parametrize(
    ("shown", "is_let_in"),
    [
        (_good, True),
        (lambda _: None, False),
        (_of_a_stranger, False),
        (_of_a_namesake, False),
        (_of_a_shim, False),
        (_expired, False),
        (_for_servers, False),
    ],
    ids=["a shim", "none", "a stranger's", "a namesake's", "signed by a leaf", "expired", "a server's"],
)
async def test_who_is_let_in(shown: Callable[[Pair], Pair | None], *, is_let_in: bool) -> None:
    authority = new_authority(now=time.time() - 1000, seconds=HOUR)
    server = BuiltInCertificate(now=time.time())
    trusted = pem([authority.certificate])
    server.serve(certified(authority, authority).allocator, trusted)
    pair = shown(authority)
    files = (pair.key.encode(), pem([pair.certificate]).encode()) if pair else (None, None)
    async with (
        serving(StandIn(), credentials=server.credentials(asks_clients=True)) as address,
        grpc.aio.secure_channel(str(address), grpc.ssl_channel_credentials(trusted.encode(), *files)) as channel,
    ):
        call = AllocatorServiceStub(channel).Allocate(AllocateRequest(), timeout=30 if is_let_in else 0.5)
        if is_let_in:
            await call
        else:
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await call


async def test_until_there_is_a_certificate_nobody_is_let_in() -> None:
    authority = new_authority(now=time.time(), seconds=HOUR)
    trusted = pem([authority.certificate])
    pair = _good(authority)
    server = BuiltInCertificate(now=time.time())
    credentials = grpc.ssl_channel_credentials(trusted.encode(), pair.key.encode(), pem([pair.certificate]).encode())
    async with (
        serving(StandIn(), credentials=server.credentials(asks_clients=True)) as address,
        grpc.aio.secure_channel(str(address), credentials) as channel,
    ):
        stub = AllocatorServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await stub.Allocate(AllocateRequest(), timeout=0.5)
        server.serve(certified(authority, authority).allocator, trusted)

        await stub.Allocate(AllocateRequest(), timeout=30, wait_for_ready=True)
