"""An HTTP server that strangers can reach: what a connection may cost, in number, in time and in files.

Longer than 350 lines because a connection has one life: how it is accepted, which one goes for it, and how long each of
its parts may take.

Rules:

* So many connections, of which no peer has more than half; `ConnectionLimits` says which one goes for the next.
* Seconds for the handshake, for headers from their first byte on, and for an answer to be read. A connection that is
  silent between two requests may be so for long: the API server keeps some, and were we first to close one, a review
  could be on its way.
* A client that refuses our certificate says so in an alert, and `refused` is called: nobody else hears of it.
* At the file limit accepting pauses, and some of those who are owed nothing go, whether or not they ever asked.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from socket import socket
from typing import Any, Generic, TypeVar, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, SSLIOStream

log = logging.getLogger(__name__)

FREED_AT_ONCE = 32
ACCEPTED_AT_ONCE = 128
"""Connections that are accepted in one turn of the event loop."""

READ_BYTES = 1 << 14
"""That are read at a time: as many as a TLS record has. Tornado's 64 KiB are cleared for each read."""

FULL_PAUSE_SECONDS = 0.25
FULL_TELL_SECONDS = 1.0
SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionTimeouts:
    """How long a connection may take for each part of its work, in seconds."""

    handshake: float = 10.0
    headers: float = 10.0  # from their first byte on
    answer: float = 10.0  # in which something of it is unread all the time
    idle: float = 120.0  # the API server closes its own after 90

    @property
    def look(self) -> float:
        """How often it is looked who takes too long."""
        return min(1.0, self.handshake / 4, self.headers / 4, self.answer / 4, self.idle / 4)


CONNECTION_TIMEOUTS = ConnectionTimeouts()


class _Part(Enum):
    """What a connection has not finished, by the field of ConnectionTimeouts."""

    HANDSHAKE = "handshake"
    HEADERS = "headers"
    ANSWER = "answer"

    def has_begun(self, stream: IOStream) -> bool:
        if self is _Part.ANSWER:
            return bool(stream.writing())
        return self is _Part.HANDSHAKE or bool(getattr(stream, "_read_buffer_size", 0))  # what has come of headers


@dataclass(slots=True)
class _Slow:
    """What a connection has not finished. `since`: when it was first seen to have begun it, or not to have."""

    part: _Part
    since: float | None = None
    has_begun: bool = False


class ConnectionLimits(Generic[K]):
    """The connections of one server, each with the address of its peer: which ones stay, and which one goes. Pure.

    Rules:

    * A connection whose request is whole is owed an answer: it never goes.
    * No peer has more than half of all. One that would have more loses what of its own has been silent longest.
    * When there are too many, the one goes that has been silent longest of those that never completed a request; where
      all have, the one of the peer that has most. So whoever comes last is served, and whoever says nothing makes room.
    * Where nobody can go, whoever comes is turned away.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = max(1, most // 2)
        self._peers: dict[K, str] = {}
        self._counts: Counter[str] = Counter()
        self._new: dict[K, None] = {}  # that never completed a request; whoever was heard last is last
        self._known: dict[K, None] = {}  # that did, and are owed nothing

    def __len__(self) -> int:
        return len(self._peers)

    def is_full(self, peer: str) -> bool:
        """Whether one more of this peer is one too many."""
        return len(self._peers) >= self._most or self._counts[peer] >= self._most_of_one

    def to_go(self, peer: str) -> K | None:
        """Which one goes for one of this peer; None: none can."""
        if self._counts[peer] >= self._most_of_one:
            return next(chain(self._of(peer, self._new), self._of(peer, self._known)), None)  # one of its own
        return next(chain(self._new, self._those_who_know_us()), None)

    def to_free(self, most: int) -> list[K]:
        """Who goes where files are short: the older half of those that never completed a request, then the others.

        Not all of the former: whoever has just come is among them, and it is for such that there must be room.
        """
        silent = islice(self._new, len(self._new) // 2)
        return list(islice(chain(silent, self._those_who_know_us()), most))

    def _those_who_know_us(self) -> Iterator[K]:
        """Those that are owed nothing, of the peer that has most, then of all."""
        greatest = max(self._counts, key=self._counts.__getitem__, default="")
        return chain(self._of(greatest, self._known), (each for each in self._known if self._peers[each] != greatest))

    def _of(self, peer: str, among: Iterable[K]) -> Iterator[K]:
        return (each for each in among if self._peers[each] == peer)

    def join(self, connection: K, peer: str) -> None:
        """A new connection of this peer, which has completed no request yet."""
        self._peers[connection] = peer
        self._counts[peer] += 1
        self._new[connection] = None

    def heard(self, connection: K) -> None:
        """Something of a request has come."""
        for among in (self._new, self._known):
            if connection in among:
                del among[connection]
                among[connection] = None

    def owed(self, connection: K) -> None:
        """A request is whole: it waits for its answer."""
        self._new.pop(connection, None)  # who is in neither never goes
        self._known.pop(connection, None)

    def waits(self, connection: K) -> None:
        """It waits for a request; for its next one, where it has completed one."""
        if connection in self._peers and connection not in self._new:
            self._known[connection] = None

    def leave(self, connection: K) -> None:
        """A connection is closed. One that is not known is left alone."""
        peer = self._peers.pop(connection, None)
        if peer is None:
            return
        self.owed(connection)
        self._counts[peer] -= 1
        if not self._counts[peer]:
            del self._counts[peer]


class Acceptor:
    """Accepts on one socket until it is stopped. `make_room` is called where there is no file for whoever waits."""

    def __init__(
        self, sock: socket, take: Callable[[socket, Any], None], make_room: Callable[[], None] = lambda: None
    ) -> None:
        self._sock = sock
        self._take = take
        self._make_room = make_room
        self._loop = IOLoop.current()
        self._told = float("-inf")
        self._is_stopped = False
        self._pause: object | None = None
        self._loop.add_handler(sock, self._ready, IOLoop.READ)

    def stop(self) -> None:
        """Accepts no more. The socket stays open."""
        self._is_stopped = True
        if self._pause is None:
            self._loop.remove_handler(self._sock)
        else:
            self._loop.remove_timeout(self._pause)

    def _ready(self, _sock: socket, _events: int) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if self._is_stopped:
                return
            try:
                connection, address = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in SCARCE:
                    raise
                self._wait(error)
                return
            self._take(connection, address)

    def _wait(self, error: OSError) -> None:
        now = self._loop.time()
        if now - self._told >= FULL_TELL_SECONDS:
            self._told = now
            log.warning("connections wait, and cannot be accepted: %s. Raise the limit of open files", error.strerror)
        self._make_room()
        self._loop.remove_handler(self._sock)
        self._pause = self._loop.call_later(FULL_PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_handler(self._sock, self._ready, IOLoop.READ)


class BoundedServer(HTTPServer):
    """See the module. Made inside the event loop. `more` is what HTTPServer takes."""

    def initialize(  # type: ignore[override]
        self,
        callback: Any,
        *,
        most: int,
        timeouts: ConnectionTimeouts = CONNECTION_TIMEOUTS,
        accepted: Callable[[], None] = lambda: None,
        refused: Callable[[], None] = lambda: None,
        **more: Any,
    ) -> None:
        """Called by HTTPServer's constructor.

        `most`: connections; `accepted` hears of each, `refused` of each that ends as our certificate is not trusted.
        """
        super().initialize(callback, chunk_size=READ_BYTES, **more)
        self.conn_params.header_timeout = None  # a timer for each request: `_look` sees who is idle
        self._timeouts = timeouts
        self._accepted = accepted
        self._refused = refused
        self._limits: ConnectionLimits[IOStream] = ConnectionLimits(most)
        self._slow: dict[IOStream, _Slow] = {}
        self._looking = asyncio.get_running_loop().call_later(timeouts.look, self._look)

    def stop(self) -> None:
        super().stop()
        self._looking.cancel()

    def add_sockets(self, sockets: Iterable[socket]) -> None:
        """Accepts on these sockets, which listen already, with a pause at the file limit."""
        for sock in sockets:
            self._sockets[sock.fileno()] = sock
            acceptor = Acceptor(sock, self._handle_connection, self._make_room)
            self._handlers[sock.fileno()] = acceptor.stop

    def _make_room(self) -> None:
        """There is no file for whoever waits: those who are owed least have theirs no longer."""
        for stream in self._limits.to_free(FREED_AT_ONCE):
            self._drop(stream)

    def _drop(self, stream: IOStream | None) -> bool:
        if stream is None:
            return False
        self._left(stream)
        stream.close()
        return True

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """A connection was accepted: it joins where there is room for its peer, else it is closed."""
        self._accepted()
        peer = str(address[0]) if address else ""
        if self._limits.is_full(peer) and not self._drop(self._limits.to_go(peer)):
            stream.close()
            return
        self._limits.join(stream, peer)
        if isinstance(stream, SSLIOStream):
            self._slow[stream] = _Slow(_Part.HANDSHAKE, asyncio.get_running_loop().time(), has_begun=True)
            stream.wait_for_handshake().add_done_callback(lambda done: self._shaken(stream, done))
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self._left(_stream_of(server_conn))

    def _left(self, stream: IOStream) -> None:
        self._limits.leave(stream)
        self._slow.pop(stream, None)

    def _shaken(self, stream: IOStream, done: asyncio.Future[SSLIOStream]) -> None:
        if is_refusal(stream.error):
            self._refused()
        if not done.cancelled() and done.exception() is None and stream in self._slow:
            self._slow[stream] = _Slow(_Part.HEADERS)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection waits for headers: for the first ones, or after an answer for those of the next request."""
        stream = _stream_of(server_conn)
        slow = self._slow.get(stream)
        if slow is None or slow.part is not _Part.HANDSHAKE:
            self._slow[stream] = _Slow(_Part.HEADERS)
        self._limits.waits(stream)
        return _Watched(super().start_request(server_conn, request_conn), self, stream)

    def has_headers(self, stream: IOStream) -> None:
        """The headers of a request are whole."""
        self._slow.pop(stream, None)
        self._limits.heard(stream)

    def heard(self, stream: IOStream) -> None:
        """A piece of a body has come."""
        self._limits.heard(stream)

    def owed(self, stream: IOStream) -> None:
        """A request is whole."""
        self._limits.owed(stream)
        self._slow[stream] = _Slow(_Part.ANSWER)

    def _look(self) -> None:
        """Closes whoever takes too long: for a handshake, for headers, to read its answer, or to ask again."""
        loop = asyncio.get_running_loop()
        self._looking = loop.call_later(self._timeouts.look, self._look)
        now = loop.time()
        for stream, slow in list(self._slow.items()):
            has_begun = slow.part.has_begun(stream)
            if slow.since is None or has_begun != slow.has_begun:
                slow.since, slow.has_begun = now, has_begun
            elif now - slow.since > self._patience(slow):
                self._drop(stream)

    def _patience(self, slow: _Slow) -> float:
        """Seconds. Whoever waits for an answer waits as long as that takes."""
        if slow.has_begun:
            return float(getattr(self._timeouts, slow.part.value))
        return self._timeouts.idle if slow.part is _Part.HEADERS else math.inf


def is_refusal(error: BaseException | None) -> bool:
    """Whether the other side ended a handshake because it does not accept our certificate.

    OpenSSL has the alerts as `TLSV1_ALERT_UNKNOWN_CA`, `SSLV3_ALERT_BAD_CERTIFICATE` and the like.
    """
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    return "_ALERT_" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


class _Watched(HTTPMessageDelegate):
    """Tells the server how far a request is."""

    def __init__(self, request: HTTPMessageDelegate, server: BoundedServer, stream: IOStream) -> None:
        self._request = request
        self._server = server
        self._stream = stream

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._server.has_headers(self._stream)
        return self._request.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._server.heard(self._stream)
        return self._request.data_received(chunk)

    def finish(self) -> None:
        self._server.owed(self._stream)
        self._request.finish()

    def on_connection_close(self) -> None:
        self._request.on_connection_close()


def _stream_of(server_conn: object) -> IOStream:
    return cast("HTTP1ServerConnection", server_conn).stream
