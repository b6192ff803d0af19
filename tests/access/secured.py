"""The service behind both of its TLS listeners, and channels of every kind of caller to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Any, cast

import grpc
import trustme
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from access.reviewing import AUDIENCE, ReviewServer
from allocator.access.guard import Guard
from allocator.access.reviews import Reviews
from allocator.app.servers import SERVER_OPTIONS
from allocator.commands import add_to_server
from allocator.core.admission import LedgerRules
from allocator.core.candidates import NodeName
from allocator.journal.memory import MemoryJournal
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from testing.servicekit import Running

HOME = "hostport-system"
SHIM = "hostport-shim"
AGENT = f"{HOME}/hostport-agent"


class Clock:
    """Seconds that tests turn."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()

    def __call__(self) -> float:
        return self.now


class Secured:
    """See the module. `server` reviews; `clock` is what ages answers and certificates."""

    def __init__(self, server: ReviewServer, options: Mapping[str, int] | None = None) -> None:
        self._options = dict(SERVER_OPTIONS) | dict(options or {})
        self.server = server
        self.clock = Clock()
        self.authority = trustme.CA()
        self.reviews = Reviews(server.client(), audience=AUDIENCE, now=self.clock)
        self.guard = Guard(
            self.reviews, home=HOME, shim_name=SHIM, audience=AUDIENCE, agent_account=AGENT, now=self.clock
        )
        self.running = Running(MemoryJournal(), LedgerRules(implicit_node=NodeName("localhost")), self.guard)
        self._open = AsyncExitStack()

    @property
    def ledger(self) -> Any:
        return self.running.engine.ledger

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        self._open.push_async_callback(close)

    @property
    def watchers(self) -> int:
        return len(self.service._watchers._watchers)

    async def start(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        pair = [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())]
        self._server = grpc.aio.server(options=tuple(self._options.items()))
        running = self.running
        self.service = running.service
        add_to_server(self.service, self._server)
        mutual = grpc.ssl_server_credentials(pair, self.authority.cert_pem.bytes(), require_client_auth=True)
        self.port = self._server.add_secure_port("127.0.0.1:0", mutual)
        self.token_port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
        await self._server.start()

    async def stop(self) -> None:
        await self._open.aclose()
        await self._server.stop(None)

    async def certified(self, name: str | None, *, ca: trustme.CA | None = None, **how: Any) -> Stub:
        """A caller with a certificate."""
        issued = (ca or self.authority).issue_cert("client.test", common_name=name, **how)
        return await self._stub(self.port, issued)

    async def without_certificate(self) -> Stub:
        return await self._stub(self.port)

    async def bearing(self, token: str = "", *, scheme: str = "Bearer") -> Stub:
        """A caller with a token, or with nothing."""
        stub = await self._stub(self.token_port)
        stub.metadata = (("authorization", f"{scheme} {token}"),) if token else ()
        return stub

    async def _stub(self, port: int, issued: trustme.LeafCert | None = None) -> Stub:
        pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()) if issued else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.cert_pem.bytes(), *pair)
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
        return Stub(await self._open.enter_async_context(channel))


class Stub:
    """Calls by name, with the caller's metadata and a deadline."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.metadata: tuple[tuple[str, str], ...] = ()
        self._stub = pb_grpc.AllocatorServiceStub(channel)

    def __call__(self, method: str, request: Any, seconds: float = 20) -> Awaitable[Any]:
        if method in {"AllocateStream", "ReportNode"}:
            return _answered(getattr(self._stub, method)(metadata=self.metadata, timeout=seconds), request)
        call = getattr(self._stub, method)(request, metadata=self.metadata, timeout=seconds)
        return cast("Awaitable[Any]", call if hasattr(call, "__await__") else _first(call))


async def _first(stream: Any) -> Any:
    return await stream.read()


async def _answered(stream: Any, request: Any) -> Any:
    with suppress(grpc.aio.AioRpcError):  # reading tells
        await stream.write(request)
        if isinstance(request, pb.ReportNodeRequest):
            await stream.done_writing()  # else nothing comes
    return await stream.read()


async def outcome(call: Awaitable[Any]) -> str:
    """`OK`, or the reason of the error, or its bare code where it has none."""
    info = error_details_pb2.ErrorInfo()
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(cast("Any", error))
        return info.reason if status and status.details[0].Unpack(info) else error.code().name
    if isinstance(answer, pb.AllocateStreamResponse) and answer.answers[0].HasField("status"):
        answer.answers[0].status.details[0].Unpack(info)
        return str(info.reason)
    return "OK"


async def outcome_of_stream(call: Callable[[], Awaitable[Any]]) -> str:
    """As `outcome`. A stream that gRPC resets before its refusal is sent, once in a hundred, is opened again."""
    for _ in range(3):
        found = await outcome(call())
        if found != "INTERNAL":
            return found
    return await outcome(call())


def lease(name: str = "r1", namespace: str = "", **fields: Any) -> pb.AllocateRequest:
    owner = pb.Owner(kind="Relay", name=name, namespace=namespace)
    return pb.AllocateRequest(owner=owner, **{"policy": pb.POLICY_DYNAMIC, "ports": [pb.PortRequest()], **fields})


def pod(name: str = "web-0", **fields: Any) -> pb.AllocateRequest:
    owner = pb.Owner(kind="Pod", namespace="demo", name=name)
    ports = [pb.PortRequest(container="c", container_port=8080)]
    return pb.AllocateRequest(owner=owner, **{"policy": pb.POLICY_DYNAMIC, "ports": ports, **fields})
