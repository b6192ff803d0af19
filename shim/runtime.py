"""Putting the shim together: listeners, certificate, client, and the order in which they start and stop.

Stopping: not ready → wait, so that endpoints forget us → accept no more → finish what is under way → close.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import resource
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from hostport import process
from hostport.credentials import Credentials
from hostport.flags import Address
from hostport.process import raise_file_limit
from hostport.rollover import RollOver
from hostport.serving import CONNECTION_TIMEOUTS, BoundedServer, ConnectionTimeouts
from hostport.supervision import Loops
from shim.client import AllocatorClient
from shim.health import side_application
from shim.limiter import SMALL_BODY, AdmissionLimiter
from shim.metrics import ShimMetrics
from shim.reporting import WarningReporter
from shim.tls import VERSIONS, Certificate
from shim.webhook import LARGEST_DRAIN, Webhook

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks at the certificate files."""

DRAIN = 30.0
"""Seconds in which what is under way must end: no review lives longer."""

BACKLOG = 1024
"""Connections that may wait for a handshake. The API server opens one for each review beyond its 25 idle ones, and one
for each second question."""

MOST_CONNECTIONS = 4000
"""Of the webhook's port. A connection takes about 60 KiB."""

HIGH_FILE, SPARE_FILES = 8192, 16
"""The webhook's sockets have one of the last 16 descriptors below this, or below the limit of open files where that is
lower. The kernel's table of so many files takes 64 KiB."""

MOST_ASIDE = 200
"""Of the other port: a kubelet and a Prometheus need one each."""

LONGEST_BODY_ASIDE = 10.0
"""Seconds; nobody has to send one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShimOptions:
    """What the command line says. Without a certificate /mutate speaks plain HTTP."""

    listen: Address
    http: Address
    allocator: Address
    allocator_replicas: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_min_version: ssl.TLSVersion = VERSIONS["1.3"]
    credentials: Credentials = field(default_factory=Credentials)
    certificate_delay: float = 0.0  # seconds until a new authority is known elsewhere
    max_concurrent: int = 1000
    own_network: bool = False  # of a Pod that does not say which network it has
    steers: bool = True  # whether Pods are kept off nodes where their numbers are held without a Pod
    most_connections: int = MOST_CONNECTIONS
    timeouts: ConnectionTimeouts = CONNECTION_TIMEOUTS
    reuse_port: bool = False
    shutdown_delay: float = 0.0


class Shim:
    """A shim that runs. Make it inside the event loop."""

    def __init__(self, options: ShimOptions) -> None:
        """Raises OSError when a certificate or credential cannot be loaded, or an address cannot be bound."""
        self._options = options
        self._certificate = _load_certificate(options)
        self._metrics = metrics = ShimMetrics()
        self._client = _client(options, metrics)
        self.limiter = AdmissionLimiter(options.max_concurrent)
        metrics.in_flight.set_function(lambda: self.limiter.in_flight)
        if certificate := self._certificate:
            metrics.certificate("shim", lambda: certificate.expires)
        self._reporter = WarningReporter(self._client.report)
        self._is_listening = False
        self._mutate, self._side = self._webhook(), self._side_server()
        self.address = _listen(self._mutate, options.listen, reuse_port=options.reuse_port)
        self.side_address = _listen(self._side, options.http)
        self._is_listening = True

    def _webhook(self) -> BoundedServer:
        """The server of /mutate and /binding."""
        options = self._options
        webhook = Webhook(
            limiter=self.limiter,
            allocate=self._client.allocate,
            metrics=self._metrics,
            reporter=self._reporter,
            address=self._client.address,
            own_network=options.own_network,
            steers=options.steers,
        )
        return BoundedServer(
            webhook,
            ssl_options=self._certificate.context if self._certificate else None,
            max_body_size=LARGEST_DRAIN,
            most=options.most_connections,
            timeouts=options.timeouts,
            accepted=self._metrics.connections.inc,
            refused=self._metrics.refused.inc,
        )

    def _side_server(self) -> BoundedServer:
        """The server of health and metrics."""
        return BoundedServer(
            side_application(self._metrics, self._checks),
            max_body_size=SMALL_BODY,
            body_timeout=LONGEST_BODY_ASIDE,
            most=min(MOST_ASIDE, self._options.most_connections),
            timeouts=self._options.timeouts,
        )

    @property
    def url(self) -> str:
        return f"{'https' if self._certificate else 'http'}://{self.address}"

    def _checks(self) -> dict[str, bool]:
        secure = {"certificate loaded": True} if self._certificate else {}  # __init__ fails without
        return secure | {"listening": self._is_listening, "not shutting down": not self.limiter.is_draining}

    async def stop(self) -> None:
        """Stops in the order that the module says. Takes the shutdown delay, and `DRAIN` seconds more at most."""
        self.limiter.is_draining = True
        await asyncio.sleep(self._options.shutdown_delay)
        self._mutate.stop()
        self._is_listening = False
        if not await self.limiter.drained(patience=DRAIN):
            log.warning("stopping with requests under way after %.0f s", DRAIN)
        await self._reporter.close()
        self._side.stop()
        await self._mutate.close_all_connections()
        await self._side.close_all_connections()
        await self._client.close()

    async def follow_files(self) -> None:
        """Looks after certificates and credentials, for ever."""
        while True:
            await asyncio.sleep(POLL)
            try:
                self.refresh()
            except OSError as error:
                log.warning("files changed and cannot be read, what was loaded stays: %s", error)

    def refresh(self) -> None:
        """Takes up certificates that changed on disk. Raises OSError when the client's cannot be read."""
        if self._certificate:
            self._certificate.refresh()
        self._client.refresh()


async def serve(options: ShimOptions) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process at once.

    Raises:
        LoopError: a background loop failed.
        OSError: as `Shim` says.

    """
    raise_file_limit()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _first_signal(number, asked))
    shim = Shim(options)
    process.freeze()
    log.info("listening on %s (http %s)", shim.url, shim.side_address)
    try:
        async with Loops() as loops:
            loops.start("files", shim.follow_files())
            await asked.wait()
    finally:
        await shim.stop()
    log.info("stopped")


def _first_signal(number: signal.Signals, asked: asyncio.Event) -> Callable[[], None]:
    def handle() -> None:
        log.info("%s: shutting down", number.name)
        asked.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    return handle


def _client(options: ShimOptions, metrics: ShimMetrics) -> AllocatorClient:
    """The client of the allocator. The metrics follow the authorities that it trusts."""
    roll_over = RollOver(options.certificate_delay)
    metrics.authorities(roll_over.authorities)
    return AllocatorClient(
        options.allocator,
        replace(options.credentials, roll_over=roll_over),
        replicas=options.allocator_replicas,
        observe=metrics.rpc_seconds.observe,
    )


def _load_certificate(options: ShimOptions) -> Certificate | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    return Certificate(cert=options.tls_cert, key=options.tls_key, minimum=options.tls_min_version)


def _listen(server: HTTPServer, address: Address, *, reuse_port: bool = False) -> Address:
    """Binds and returns the address that was really bound."""
    sockets = bind_sockets(address.port, address.host, backlog=BACKLOG, reuse_port=reuse_port)
    server.add_sockets(sockets := [_at_highest(each) for each in sockets])
    host, port = sockets[0].getsockname()[:2]
    return Address(host, port)


def _at_highest(sock: socket) -> socket:
    """The same socket at a high descriptor; the object that was given is closed. Where none is free it stays as it is.

    Linux, as it is today, closes the files of a process that is killed from the highest down. The socket that accepts
    has to be closed before the connections: a client that sees its connection break comes again at once, and must not
    be led to a process that accepts nothing any more.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        high = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, max(0, min(HIGH_FILE, most) - SPARE_FILES))
    except OSError:  # no descriptor from there on is free
        return sock
    moved = socket(fileno=high)
    moved.setblocking(False)
    sock.close()
    return moved
