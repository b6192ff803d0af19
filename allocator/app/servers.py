"""What the allocator listens on: gRPC, gRPC for tokens, health in plain text, and HTTP with the status page.

Rules:

* A connection costs a stranger more than us, and none lasts for ever: SERVER_OPTIONS.
* The port for tokens is opened when the cluster is known. The agents of all nodes come there as soon as it is, and
  thousands of handshakes would make a start half as long again.
* What the service answers is none of this module's business.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2  # noqa: F401 - reflection then knows the types of our error details
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tornado.netutil import bind_sockets

from allocator import http
from allocator.app.assembly import Assembly
from allocator.certificates.serving import CertificateFiles
from allocator.commands import add_to_server
from allocator.config import Config
from allocator.page.access import PageAccess
from hostport.flags import Address
from hostport.serving import BoundedServer
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)
_GRPC = "grpc._cython.cygrpc"  # gRPC's own logger

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AllocatorService"].full_name
DRAIN_SECONDS = 10.0
HEALTH = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}
MAX_HTTP_BODY = 1 << 16  # nobody has to send one
LONGEST_BODY_SECONDS = 10.0
MOST_READERS = 500  # connections of the http port: probes, scrapes, and people who look at the page
MOST_CONNECTIONS = 2000
MOST_WITH_AGENTS = 8000
"""Connections of a listener, and of the one where the agents of nodes have one each."""
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.so_reuseport", 0),  # a second allocator on the port must fail, not share it
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    # What a stranger may cost: a connection takes about 100 KiB. The bound is that of one listener, so that nobody on
    # the one for tokens keeps a shim out. A connection that is idle, or whose handshake does not come, is closed.
    ("grpc.max_allowed_incoming_connections", MOST_CONNECTIONS),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    # Every connection ends, whatever its peer does: what it was given by a right or certificate that is gone, and what
    # it did not read, goes with it. Calls go over to the next connection; a watch has to begin anew.
    ("grpc.max_connection_age_ms", 1_800_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


def _options_for_tokens(config: Config) -> tuple[tuple[str, int], ...]:
    """Of the server that callers with tokens connect to, and the agents of nodes where there are such."""
    if not config.agent_account:
        return SERVER_OPTIONS
    return tuple((dict(SERVER_OPTIONS) | {"grpc.max_allowed_incoming_connections": MOST_WITH_AGENTS}).items())


class Servers:
    """See the module. Made inside the event loop.

    Raises:
        OSError, RuntimeError: an address cannot be listened on.

    """

    def __init__(self, assembly: Assembly) -> None:
        self._config = assembly.config
        self._application = assembly.application
        self._parts = assembly.kubernetes
        self._health = health.aio.HealthServicer()
        self._told: dict[str, bool] = {}  # what grpc.health says, by service
        self._grpc = grpc.aio.server(options=SERVER_OPTIONS)
        self._for_tokens: grpc.aio.Server | None = None
        self._health_only = grpc.aio.server(options=SERVER_OPTIONS)
        self._fill(self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_only)
        self._listening = self._listen()
        self._listen_for_health()
        self._http = BoundedServer(
            http.application(
                self._application.health.snapshot,
                self._application.metrics.registry,
                self._application.page(PageAccess(audience=self._config.page, names=self._config.page_hosts)),
            ),
            max_body_size=MAX_HTTP_BODY,
            body_timeout=LONGEST_BODY_SECONDS,
            most=MOST_READERS,
        )

    async def start(self) -> None:
        """Answers from now on, NOT_SERVING where that is so."""
        await self.tell_health()
        await self._grpc.start()
        await self._health_only.start()
        listen = self._config.http
        sockets = bind_sockets(listen.port, listen.host)
        self._http.add_sockets(sockets)
        port = sockets[0].getsockname()[1]
        log.info("listening on grpc %s, http %s from now on", self._listening, Address(listen.host, port))

    async def listen_for_tokens(self) -> None:
        """Opens the port for tokens, where there is to be one; once, when the cluster is known.

        Raises:
            RuntimeError: the address cannot be listened on.

        """
        listen = self._config.listen_tokens
        credentials = self._credentials(asks_clients=False) if listen else None
        if listen is None or credentials is None or self._application.health.is_stopping:
            return
        server = grpc.aio.server(options=_options_for_tokens(self._config))
        self._fill(server)
        port = server.add_secure_port(str(listen), credentials)
        await server.start()
        self._for_tokens = server
        log.info("listening for tokens on grpc %s", Address(listen.host, port))

    async def tell_health(self) -> None:
        """Tells the kubelet (no name) whether we are ready, and callers (the service's name) whether we serve."""
        state = self._application.health
        is_serving = state.may_answer() and not state.is_stopping
        for name, holds in (("", is_serving or state.is_standing_by()), (SERVICE_NAME, is_serving)):
            if self._told.get(name) is not holds:
                self._told[name] = holds
                await self._health.set(name, HEALTH[holds])

    async def stop_answering(self) -> None:
        """Finishes what is under way: a call that was decided is still committed and answered."""
        await self._health.enter_graceful_shutdown()
        self._application.service.finish_streams()
        await asyncio.gather(*(each.stop(DRAIN_SECONDS) for each in (self._grpc, self._for_tokens) if each is not None))

    async def close(self) -> None:
        """Ends the listeners for probes, scrapes and readers, which have been answered until now."""
        await self._health_only.stop(None)
        self._http.stop()
        await self._http.close_all_connections()

    def _fill(self, server: grpc.aio.Server) -> None:
        add_to_server(self._application.service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)

    def _listen(self) -> Address:
        """Returns where gRPC is listened for."""
        listen = self._config.listen
        credentials = self._credentials(asks_clients=True)
        if credentials is None:
            return Address(listen.host, self._grpc.add_insecure_port(str(listen)))
        return Address(listen.host, self._grpc.add_secure_port(str(listen), credentials))

    def _listen_for_health(self) -> None:
        """The kubelet's grpc probe speaks no TLS and shows no certificate: for it there is health alone."""
        if listen := self._config.listen_health:
            port = self._health_only.add_insecure_port(str(listen))
            log.info("listening for health on grpc %s", Address(listen.host, port))

    def _credentials(self, *, asks_clients: bool) -> grpc.ServerCredentials | None:
        """Of one port. None: plain text."""
        config = self._config
        if self._parts is not None and self._parts.serving is not None:
            return self._parts.serving.credentials(asks_clients=asks_clients)
        if not config.tls_cert:
            return None
        files = CertificateFiles(
            cert=Path(config.tls_cert),
            key=Path(config.tls_key),
            client_ca=Path(config.tls_client_ca) if config.tls_client_ca else None,
            also=config.also_trust,
            delay=config.certificate_delay,
            asks_clients=asks_clients,
        )
        if asks_clients:
            self._application.metrics.certificate("allocator", lambda: files.expires)
            self._application.metrics.trust(files.authorities)
        return files.credentials()


class GrpcLogFilter(logging.Filter):
    """Lets a line of gRPC's pass without the traceback of a DecodeError.

    gRPC itself refuses bytes that are no message (UNKNOWN), and would write a traceback for each. Anybody who passed
    TLS can send them: so one line has to do, and what the bytes were is not told.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record, and lets all of them pass."""
        if record.exc_info and isinstance(record.exc_info[1], DecodeError):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = "a caller sent bytes that are no message: %s", (str(record.exc_info[1])[:200],)
            record.exc_info = record.exc_text = None
        return True


def filter_grpc_log() -> None:
    """For the whole process, once."""
    logger = logging.getLogger(_GRPC)
    if not any(isinstance(each, GrpcLogFilter) for each in logger.filters):
        logger.addFilter(GrpcLogFilter())
