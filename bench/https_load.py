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
CHUNKED, LAST_CHUNK = b"\r\ntransfer-encoding: chunked", b"\r\n0\r\n\r\n"


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
    client: tuple[Path, Path] | None = None  # certificate and key to show
    expects: tuple[bytes, bytes] = (b"HTTP/1.1 200", ALLOWED)  # how an answer begins, and what is in it

    def run(self, load: Load) -> None:
        """Until the load has enough.

        Raises:
            LoadError: an answer was not what was expected.

        """
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.address}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json\r\nContent-Length: {self.template.size}\r\n\r\n"
        ).encode()
        context = ssl.create_default_context(cafile=self.ca)
        if self.client:
            context.load_cert_chain(*self.client)
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
        if not _is_whole(connection.received):
            return False
        self._check(connection.received)
        connection.received.clear()
        return True

    def _check(self, answer: bytearray) -> None:
        begins, has = self.expects
        if not answer.startswith(begins) or has not in answer:
            raise LoadError(f"not as expected: {bytes(answer[:2000])!r}")
        if not self.last_answer:
            self.last_answer = bytes(answer)


def _is_whole(answer: bytearray) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    if CHUNKED in answer[:end].lower():
        return answer.endswith(LAST_CHUNK)
    return len(answer) >= end + 4 + _length(answer, end)


def _length(answer: bytearray, end: int) -> int:
    at = answer.lower().find(b"content-length:", 0, end)
    if at < 0:
        raise LoadError("an answer without Content-Length")
    return int(answer[at + 15 : answer.find(b"\r\n", at)])
