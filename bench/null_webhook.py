"""The null webhook: a bare Tornado TLS handler that answers every review with one constant patch, and asks nobody.

GET /accepted tells how many connections it has accepted, that one included.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

UID = re.compile(rb'"uid":"([^"]+)"')  # the first one is the review's
PATCH = b'[{"op":"add","path":"/metadata/annotations/bench.hostport.io~1null","value":"1"}]'
ANSWER = b"".join(
    (
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"%s","allowed":true,',
        b'"patchType":"JSONPatch","patch":"',
        base64.b64encode(PATCH),
        b'"}}',
    )
)


class Null(RequestHandler):
    """Looks for the uid alone."""

    def initialize(self, answer: bytes) -> None:
        self._answer = answer

    def post(self) -> None:
        found = UID.search(self.request.body)
        self.set_header("Content-Type", "application/json")
        self.finish(self._answer.replace(b"%s", found[1] if found else b""))


class Accepted(RequestHandler):
    """Tells the count of its server."""

    def initialize(self, count: Callable[[], int]) -> None:
        self._count = count

    def get(self) -> None:
        self.finish(str(self._count()))


class Counting(HTTPServer):
    """Counts the connections that it accepts."""

    accepted = 0

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        self.accepted += 1
        super().handle_stream(stream, address)


async def serve(options: argparse.Namespace) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.tls_cert, options.tls_key)
    answer = options.answer.read_bytes() if options.answer else ANSWER
    application = Application([("/mutate", Null, {"answer": answer})], log_function=lambda _: None)
    host, port = options.listen.rsplit(":", 1)
    webhook = Counting(application, ssl_options=context)
    application.add_handlers(".*", [("/accepted", Accepted, {"count": lambda: webhook.accepted})])
    webhook.listen(int(port), host)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.null_webhook", description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--answer", type=Path, help="file with another body, so that answers are of one size")
    parser.add_argument("--tls-cert", required=True)
    parser.add_argument("--tls-key", required=True)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
