"""A load generator for one unary gRPC method, light enough not to be what is measured.

It speaks just as much HTTP/2 as that takes: one connection, constant headers, one DATA frame for each call. A client of
the gRPC library costs as much CPU as the server that it measures. A call has succeeded when a message came before its
trailers: a status that is not OK comes without one.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field

from bench.tally import Load, LoadError, Template

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
WIDE = (1 << 30) - 1
FIRST_WINDOW = 65535
TIMEOUT = "5S"  # as the shim sets one


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(path: str, authority: str) -> bytes:
    """HPACK without a dynamic table: indexed fields, and literals that are not indexed."""

    def text(value: str) -> bytes:
        if len(value) > 126:
            raise LoadError(f"{value} is too long for a one-byte length")
        return bytes([len(value)]) + value.encode()

    def literal(name: str, value: str) -> bytes:
        return b"\x00" + text(name) + text(value)

    post, http = b"\x83", b"\x86"
    named = b"\x04" + text(path) + b"\x01" + text(authority)  # :path and :authority by their static index
    rest = {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": TIMEOUT}
    return post + http + named + b"".join(literal(name, value) for name, value in rest.items())


@dataclass(slots=True)
class _Call:
    began: float
    has_message: bool = False


@dataclass(slots=True)
class GrpcLoad:
    """A connection with a number of calls always under way."""

    address: str
    path: str
    template: Template
    concurrency: int
    _out: bytearray = field(default_factory=bytearray)
    _waiting: deque[bytes] = field(default_factory=deque)
    _window: int = FIRST_WINDOW
    _stream: int = -1
    _calls: dict[int, _Call] = field(default_factory=dict)

    def run(self, load: Load) -> None:
        """Until the load has enough.

        Raises:
            LoadError: a call failed.

        """
        host, port = self.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._out += PREFACE
            self._out += frame(SETTINGS, 0, 0, struct.pack(">HIHI", 2, 0, 4, WIDE))
            self._out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WIDE - FIRST_WINDOW))
            headers = header_block(self.path, self.address)
            for _ in range(self.concurrency):
                self._call(headers)
            self._exchange(connection, headers, load)

    def _exchange(self, connection: socket.socket, headers: bytes, load: Load) -> None:
        buffer = bytearray()
        while True:
            self._send(connection)
            received = connection.recv(1 << 18)
            if not received:
                raise LoadError("the server closed the connection")
            buffer += received
            ended = self._read(buffer)
            now = time.perf_counter()
            for call in ended:
                load.count(now - call.began)
            if load.is_over(now):
                return
            for _ in ended:
                self._call(headers)

    def _call(self, headers: bytes) -> None:
        self._stream += 2
        message = self.template.next()
        self._calls[self._stream] = _Call(time.perf_counter())
        body = b"\x00" + struct.pack(">I", len(message)) + message
        self._waiting.append(
            frame(HEADERS, END_HEADERS, self._stream, headers) + frame(DATA, END_STREAM, self._stream, body)
        )

    def _send(self, connection: socket.socket) -> None:
        """Sends what the server's window allows; streams have one of their own, which a single message never fills."""
        size = self.template.size + 5
        while self._waiting and self._window >= size:
            self._window -= size
            self._out += self._waiting.popleft()
        if self._out:
            connection.sendall(self._out)
            self._out.clear()

    def _read(self, buffer: bytearray) -> list[_Call]:
        """Takes whole frames off the buffer. Returns the calls that ended."""
        ended: list[_Call] = []
        at = 0
        while len(buffer) - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at - 9 < length:
                break
            kind, flags, stream = buffer[at + 3], buffer[at + 4], int.from_bytes(buffer[at + 5 : at + 9], "big")
            payload = bytes(buffer[at + 9 : at + 9 + length]) if kind not in (DATA, HEADERS) else b""
            at += 9 + length
            if kind == DATA and length > 5:
                self._calls[stream].has_message = True
            elif kind == HEADERS and flags & END_STREAM:
                ended.append(self._ended(stream))
            else:
                self._control(kind, flags, stream, payload)
        del buffer[:at]
        return ended

    def _ended(self, stream: int) -> _Call:
        call = self._calls.pop(stream)
        if not call.has_message:
            raise LoadError(f"the call on stream {stream} was refused")
        return call

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (RST_STREAM, GOAWAY):
            raise LoadError(f"the server gave up: frame {kind} {payload!r}")
        if kind == SETTINGS and not flags & ACK:
            self._out += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
