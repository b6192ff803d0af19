"""A stand-in for the allocator behind a real gRPC server, and certificates for it and for the shim."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import trustme
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2_grpc
from grpc_status import rpc_status
from shimkit import FakeAllocator

from hostport.flags import Address
from hostport.v1.allocator_pb2 import (
    AllocateRequest,
    AllocateResponse,
    AllocateStreamRequest,
    AllocateStreamResponse,
    GetNodeAddressRequest,
    GetNodeAddressResponse,
    ReportWarningsRequest,
    ReportWarningsResponse,
)

Context = grpc.aio.ServicerContext[Any, Any]
Answering = Callable[[AllocateRequest, Context], Awaitable[AllocateResponse]]
Streaming = Callable[[AsyncIterator[AllocateStreamRequest], Context], AsyncIterator[AllocateStreamResponse]]


def granting() -> Answering:
    allocate = FakeAllocator()

    async def answer(request: AllocateRequest, _: Context) -> AllocateResponse:
        return await allocate(request)

    return answer


@dataclass
class StandIn:
    """Answers as it is told, and remembers what it was asked."""

    answer: Answering = field(default_factory=granting)
    asked: list[AllocateRequest] = field(default_factory=list)
    reported: list[ReportWarningsRequest] = field(default_factory=list)
    refuses_reports: bool = False
    addresses: dict[str, GetNodeAddressResponse] = field(default_factory=dict)  # by node
    stream: Streaming | None = None  # how it serves AllocateStream; None: it does not know that call
    health: health.aio.HealthServicer | None = None

    async def allocate(self, request: AllocateRequest, context: Context) -> AllocateResponse:
        self.asked.append(request)
        return await self.answer(request, context)

    async def address(self, request: GetNodeAddressRequest, context: Context) -> GetNodeAddressResponse:
        if request.node not in self.addresses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no address")
        return self.addresses[request.node]

    async def report(self, request: ReportWarningsRequest, context: Context) -> ReportWarningsResponse:
        self.reported.append(request)
        if self.refuses_reports:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return ReportWarningsResponse()


@asynccontextmanager
async def serving(
    servicer: StandIn, *, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[Address]:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        servicer.allocate,
        request_deserializer=AllocateRequest.FromString,
        response_serializer=AllocateResponse.SerializeToString,
    )
    report = grpc.unary_unary_rpc_method_handler(
        servicer.report,
        request_deserializer=ReportWarningsRequest.FromString,
        response_serializer=ReportWarningsResponse.SerializeToString,
    )
    address = grpc.unary_unary_rpc_method_handler(
        servicer.address,
        request_deserializer=GetNodeAddressRequest.FromString,
        response_serializer=GetNodeAddressResponse.SerializeToString,
    )
    methods: dict[str, Any] = {"Allocate": method, "ReportWarnings": report, "GetNodeAddress": address}
    if servicer.stream is not None:
        methods["AllocateStream"] = grpc.stream_stream_rpc_method_handler(
            servicer.stream,
            request_deserializer=AllocateStreamRequest.FromString,
            response_serializer=AllocateStreamResponse.SerializeToString,
        )
    handlers = grpc.method_handlers_generic_handler("hostport.v1.AllocatorService", methods)
    server.add_generic_rpc_handlers((handlers,))
    if servicer.health is not None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer.health, server)
    where = f"127.0.0.1:{port}"
    bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    await server.start()
    try:
        yield Address("127.0.0.1", bound)
    finally:
        await server.stop(grace=None)


def refusing(
    code: grpc.StatusCode,
    reason: str,
    *violations: tuple[str, str, str],
    domain: str = "hostport.io",
    message: str = "no",
) -> Answering:
    """Refuses with an ErrorInfo and, where there are violations (field, description, reason), a BadRequest."""

    async def answer(_: AllocateRequest, context: Context) -> AllocateResponse:
        status = status_pb2.Status(code=code.value[0], message=message)
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
        if violations:
            bad = error_details_pb2.BadRequest()
            for where, description, why in violations:
                bad.field_violations.add(field=where, description=description, reason=why)
            status.details.add().Pack(bad)
        await context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError

    return answer


@dataclass(frozen=True)
class Pair:
    """A certificate and its key as files."""

    cert: Path
    key: Path

    def write(self, issued: trustme.LeafCert) -> None:
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


def issue(authority: trustme.CA, folder: Path, name: str = "127.0.0.1") -> Pair:
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    pair.write(authority.issue_cert(name))
    return pair
