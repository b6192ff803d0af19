"""The bare grpc.aio server: the allocator's messages and nothing behind them."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import grpc

from allocator.app.servers import SERVER_OPTIONS
from hostport.v1 import allocator_pb2 as pb


def handlers(response: pb.AllocateResponse) -> grpc.GenericRpcHandler:
    """Allocate, answered with one and the same response."""

    async def allocate(
        _request: pb.AllocateRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.AllocateResponse:
        return response

    method = grpc.unary_unary_rpc_method_handler(
        allocate,
        request_deserializer=pb.AllocateRequest.FromString,
        response_serializer=pb.AllocateResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("hostport.v1.AllocatorService", {"Allocate": method})


async def serve(listen: str, response: pb.AllocateResponse) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((handlers(response),))
    server.add_insecure_port(listen)
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.echo_server", description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--answer", type=Path, required=True, help="file with the serialised AllocateResponse")
    options = parser.parse_args()
    asyncio.run(serve(options.listen, pb.AllocateResponse.FromString(options.answer.read_bytes())))


if __name__ == "__main__":
    main()
