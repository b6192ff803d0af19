"""One HTTP/2 connection to a gRPC server, and one call on it at a time: bytes by h2, messages as gRPC frames them.

Rules:

* One thread, and nothing happens by itself: the connection lives in `receive`, which returns within its time.
* What is kept is bounded: of what has come a message of MOST_MESSAGE, of what is to be sent as much as is sent at once
  by who asks `has_room` first. A server that sends without end is read piece by piece.
* Every step has its time: to connect, to shake hands, to write. A server of which nothing has come for a while is asked
  for a sign of life, and one that does not read for long is given up: a machine that dies says no goodbye.
* A server that says it is going away (GOAWAY) has ended the connection.
* Whatever else goes wrong is a LinkError, whose words say what. The connection is of no use from then on.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

CONNECT_SECONDS = 5.0
"""For the connection, and as many for the handshake."""

SEND_SECONDS = 10.0
PING_SECONDS, PATIENCE_SECONDS = 20.0, 10.0
"""Of silence, until the server is asked for a sign of life; and then, until the connection counts as dead."""

STALLED_SECONDS = 60.0
"""How long a server may let nothing be sent to it."""

RECEIVE_BYTES = 1 << 16
FRAME_HEADER, MOST_FRAME = 9, 1 << 14
"""Bytes: what HTTP/2 has where a client asks for no other."""

MOST_MESSAGE = 1 << 20
"""Bytes. The longest message of an allocator names every second number twice, which takes two thirds of that."""

MOST_HEADERS = 1 << 14
"""Bytes; gRPC refuses trailers above 8 KiB."""

_PREFIX = struct.Struct(">BI")  # of a message: whether it is compressed, and its length
_SHORTEST = 0.001  # seconds: 0 would mean something else to a socket

Fields = Iterable[tuple[str, str]]


class LinkError(Exception):
    """The connection, or what stands for a server at its other end, is not in order."""


class CallEnd(NamedTuple):
    """How a call ended: the number of gRPC's code, the sentence, and the bytes of a google.rpc.Status, maybe none."""

    code: int
    message: str
    details: bytes = b""


UNKNOWN = 2
"""The code of an end that tells none."""


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it, uncompressed."""
    return _PREFIX.pack(0, len(message)) + message


def connect(address: tuple[str, int], tls: ssl.SSLContext | None, name: str) -> socket.socket:
    """A connection that speaks HTTP/2. name: whom the certificate has to be of.

    Raises:
        LinkError: there is none.

    """
    try:
        plain = socket.create_connection(address, timeout=CONNECT_SECONDS)
    except OSError as error:
        raise LinkError(f"{address[0]} is not reached: {_error_line(error)}") from error
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return plain
    try:
        secured = tls.wrap_socket(plain, server_hostname=name)
    except (OSError, ValueError) as error:  # a name that no certificate can have is a ValueError
        plain.close()
        raise LinkError(f"no TLS with {address[0]}: {_error_line(error)}") from error
    if secured.selected_alpn_protocol() != "h2":
        secured.close()
        raise LinkError(f"{address[0]} does not speak HTTP/2")
    return secured


class Http2Link:
    """See the module. To be closed."""

    def __init__(self, connected: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        """connected: belongs to the link from now on."""
        self._socket = connected
        self._clock = clock
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        # A client has nothing pushed to it, and keeps few headers.
        bounds = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: MOST_HEADERS}
        self._h2.local_settings = Settings(client=True, initial_values=bounds)
        self._h2.decoder.max_header_list_size = MOST_HEADERS
        self._call: Call | None = None
        self._come = bytearray()  # the beginning of a frame
        self._heard = clock()
        self._asked: float | None = None  # when the server was asked for a sign of life, and has not given one yet
        self._h2.initiate_connection()

    def call(self, path: str, authority: str, fields: Fields) -> Call:
        """Begins a call, and ends the one before it. fields: beside those of every call. Raises LinkError."""
        number = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "https" if isinstance(self._socket, ssl.SSLSocket) else "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *fields,
        ]
        with _as_link_error():
            if self._call is not None and self._call.end is None:
                self._h2.reset_stream(self._call.number, ErrorCodes.CANCEL)
            self._h2.send_headers(number, headers)
        self._call = Call(self, self._h2, number, self._clock)
        self.flush()
        return self._call

    def receive(self, seconds: float) -> None:
        """Takes what comes first within so many seconds. Raises LinkError."""
        if self._asked is None and self._clock() - self._heard >= PING_SECONDS:
            self._asked = self._clock()
            self._h2.ping(b"hostport")
            self.flush()
        try:
            self._socket.settimeout(max(seconds, _SHORTEST))
            data = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            self._check_alive()
            return
        except OSError as error:
            raise LinkError(_error_line(error)) from error
        if not data:
            raise LinkError("the server closed the connection")
        self._heard, self._asked = self._clock(), None
        self._come += data
        for frame in self._frames():
            try:
                events = self._h2.receive_data(frame)
            except (ProtocolError, UnicodeError) as error:
                with contextlib.suppress(LinkError):
                    self.flush()  # tells the server what was wrong
                raise LinkError(f"this is no HTTP/2: {_error_line(error)}") from error
            with _as_link_error():
                self._take(events)
        self.flush()

    def flush(self) -> None:
        """Writes what is to be said. Raises LinkError."""
        data = self._h2.data_to_send()
        if not data:
            return
        try:
            self._socket.settimeout(SEND_SECONDS)
            self._socket.sendall(data)
        except OSError as error:
            raise LinkError(_error_line(error)) from error

    def close(self) -> None:
        """Says goodbye where that can be done, and ends the connection."""
        with contextlib.suppress(LinkError, ProtocolError):
            self._h2.close_connection()
            self.flush()
        self._socket.close()

    def _frames(self) -> Iterator[bytes]:
        """One by one: h2 would keep 16 MiB of one that is too long, and forget a GOAWAY that has others behind it."""
        while len(self._come) >= FRAME_HEADER:
            length = int.from_bytes(self._come[:3], "big")
            if length > MOST_FRAME:
                raise LinkError(f"this is no HTTP/2: a frame of {length} bytes")
            if len(self._come) < FRAME_HEADER + length:
                return
            yield bytes(self._come[: FRAME_HEADER + length])
            del self._come[: FRAME_HEADER + length]

    def _check_alive(self) -> None:
        """Only where nothing came: a program that was stopped for long finds first what has come meanwhile."""
        if self._asked is not None and self._clock() - self._asked >= PATIENCE_SECONDS:
            raise LinkError("the server gives no sign of life")
        if self._call is not None:
            self._call.check_moves()

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived):
                # Taken at once, whatever call it is of: the window of the connection is one for all.
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, ConnectionTerminated):
                raise LinkError(f"the server goes away ({_error_code_name(event.error_code)})")
            if self._call is not None and getattr(event, "stream_id", None) == self._call.number:
                self._call.take(event)
        if self._call is not None:
            self._call.push()


class Call:
    """One call: messages in both directions, and how it ended. Made by a link."""

    def __init__(self, link: Http2Link, h2: H2Connection, number: int, clock: Callable[[], float]) -> None:
        self.number = number
        self.end: CallEnd | None = None
        self._link = link
        self._h2 = h2
        self._clock = clock
        self._fields: dict[str, str] = {}  # headers and trailers of the answer
        self._come = bytearray()
        self._waiting = bytearray()  # what the server lets us send when it has read more
        self._moved = clock()  # when something was sent last, or nothing waited
        self._messages: list[bytes] = []
        self._is_last = False  # whether nothing follows what waits

    @property
    def has_room(self) -> bool:
        """Whether the server has taken all that was sent before."""
        return not self._waiting

    def send(self, message: bytes, *, is_last: bool = False) -> None:
        """Sends a message, as the server reads. is_last: the server may answer for all of it. Raises LinkError."""
        self._waiting += framed(message)
        self._is_last = is_last
        with _as_link_error():
            self.push()
        self._link.flush()

    def messages(self) -> list[bytes]:
        """Those that have come since this was asked last."""
        come, self._messages = self._messages, []
        return come

    def push(self) -> None:
        """Hands over to h2 as much as the server's windows let through."""
        while self._waiting and self.end is None:
            room = min(self._h2.local_flow_control_window(self.number), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            part = bytes(self._waiting[:room])
            del self._waiting[:room]
            self._h2.send_data(self.number, part, end_stream=self._is_last and not self._waiting)
            self._moved = self._clock()

    def check_moves(self) -> None:
        """Raises LinkError where the server has let nothing through for long."""
        if self.has_room:
            self._moved = self._clock()
        elif self._clock() - self._moved >= STALLED_SECONDS:
            raise LinkError("the server reads nothing")

    def take(self, event: Event) -> None:
        """What has come for this call. Raises LinkError where that is not as gRPC has it."""
        if isinstance(event, DataReceived):
            self._come += event.data or b""
            self._unpack()
        elif isinstance(event, (ResponseReceived, TrailersReceived)):
            self._fields |= {str(name): str(value) for name, value in event.headers or ()}
        elif isinstance(event, StreamEnded):
            self.end = self.end or _end_of(self._fields)
        elif isinstance(event, StreamReset):
            self.end = self.end or CallEnd(UNKNOWN, f"the server reset the call ({_error_code_name(event.error_code)})")

    def _unpack(self) -> None:
        while len(self._come) >= _PREFIX.size:
            is_compressed, length = _PREFIX.unpack_from(self._come)
            if is_compressed:
                raise LinkError("the server sends a compressed message, which nobody asked for")
            if length > MOST_MESSAGE:
                raise LinkError(f"the server sends a message of {length} bytes")
            if len(self._come) < _PREFIX.size + length:
                return
            self._messages.append(bytes(self._come[_PREFIX.size : _PREFIX.size + length]))
            del self._come[: _PREFIX.size + length]


def _end_of(fields: dict[str, str]) -> CallEnd:
    """How a call ended by its headers and trailers. What is no gRPC has none: a proxy answers with HTTP alone."""
    code = fields.get("grpc-status", "")
    if not code.isdecimal():
        return CallEnd(UNKNOWN, f"no gRPC answered, but HTTP {fields.get(':status', '')}")
    text = fields.get("grpc-status-details-bin", "")
    try:
        details = base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        details = b""
    return CallEnd(int(code), unquote(fields.get("grpc-message", "")), details)


@contextlib.contextmanager
def _as_link_error() -> Iterator[None]:
    """What h2 does not let us do, since the server ended something meanwhile."""
    try:
        yield
    except ProtocolError as error:
        raise LinkError(_error_line(error)) from error


def _error_code_name(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)


def _error_line(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if isinstance(error, TimeoutError):
        return "it takes too long"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
