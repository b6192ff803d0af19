"""The bare Tornado TLS server: reads a body, makes one gRPC call to the echo, answers with a constant body."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc


class Relay(RequestHandler):
    """One call for each request."""

    def initialize(self, stub: Any, ask: pb.AllocateRequest, answer: bytes) -> None:
        self._stub = stub
        self._ask = ask
        self._answer = answer

    async def post(self) -> None:
        await self._stub.Allocate(self._ask, timeout=5)
        self.set_header("Content-Type", "application/json")
        self.finish(self._answer)


async def serve(options: argparse.Namespace) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.tls_cert, options.tls_key)
    channel = grpc.aio.insecure_channel(options.echo)
    parts = {
        "stub": pb_grpc.AllocatorServiceStub(channel),
        "ask": pb.AllocateRequest.FromString(options.request.read_bytes()),
        "answer": options.answer.read_bytes(),
    }
    application = Application([("/mutate", Relay, parts)], log_function=lambda _: None)
    host, port = options.listen.rsplit(":", 1)
    HTTPServer(application, ssl_options=context).listen(int(port), host)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.relay_server", description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--echo", required=True, help="address of bench.echo_server")
    parser.add_argument("--request", type=Path, required=True, help="file with the serialised AllocateRequest")
    parser.add_argument("--answer", type=Path, required=True, help="file with the body of the answer")
    parser.add_argument("--tls-cert", required=True)
    parser.add_argument("--tls-key", required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
