"""A load generator for one HTTPS POST: keep-alive connections, whole requests made in advance, no HTTP library."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.tally import Load, LoadError, Template

ALLOWED = b'"allowed":true'


@dataclass(slots=True)
class _Connection:
    socket: ssl.SSLSocket
    received: bytearray = field(default_factory=bytearray)
    began: float = 0.0


@dataclass(slots=True)
class HttpsLoad:
    """A number of connections, each with one request under way."""

    address: str
    path: str
    ca: Path
    template: Template
    concurrency: int
    last_answer: bytes = b""

    def run(self, load: Load) -> None:
        """Until the load has enough.

        Raises:
            LoadError: an answer was not HTTP 200 with an allowed review.

        """
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.address}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json\r\nContent-Length: {self.template.size}\r\n\r\n"
        ).encode()
        context = ssl.create_default_context(cafile=self.ca)
        with selectors.DefaultSelector() as selector:
            connections = [self._connect(context) for _ in range(self.concurrency)]
            try:
                for connection in connections:
                    selector.register(connection.socket, selectors.EVENT_READ, connection)
                    self._send(connection, head)
                self._exchange(selector, head, load)
            finally:
                for connection in connections:
                    connection.socket.close()

    def _exchange(self, selector: selectors.BaseSelector, head: bytes, load: Load) -> None:
        while not load.is_over(time.perf_counter()):
            ready = selector.select(10)
            if not ready:
                raise LoadError("no answer for 10 s")
            for key, _ in ready:
                connection: _Connection = key.data
                if self._receive(connection):
                    load.count(time.perf_counter() - connection.began)
                    self._send(connection, head)

    def _connect(self, context: ssl.SSLContext) -> _Connection:
        host, port = self.address.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = context.wrap_socket(plain, server_hostname=host)
        secure.setblocking(False)
        return _Connection(secure)

    def _send(self, connection: _Connection, head: bytes) -> None:
        request = head + self.template.next()
        connection.began = time.perf_counter()
        sent = connection.socket.send(request)
        if sent != len(request):
            raise LoadError("the socket took a part of a request")

    def _receive(self, connection: _Connection) -> bool:
        """Whether the answer is whole."""
        try:
            while chunk := connection.socket.recv(1 << 16):
                connection.received += chunk
                if not connection.socket.pending():
                    break
            else:
                raise LoadError("the server closed the connection")
        except ssl.SSLWantReadError:
            pass
        end = connection.received.find(b"\r\n\r\n")
        if end < 0 or len(connection.received) < end + 4 + _length(connection.received, end):
            return False
        self._check(connection.received)
        connection.received.clear()
        return True

    def _check(self, answer: bytearray) -> None:
        if not answer.startswith(b"HTTP/1.1 200") or ALLOWED not in answer:
            raise LoadError(f"not allowed: {bytes(answer[:2000])!r}")
        if not self.last_answer:
            self.last_answer = bytes(answer)


def _length(answer: bytearray, end: int) -> int:
    at = answer.lower().find(b"content-length:", 0, end)
    if at < 0:
        raise LoadError("an answer without Content-Length")
    return int(answer[at + 15 : answer.find(b"\r\n", at)])
