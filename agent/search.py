"""Finds the allocator that serves among the addresses of its name.

Rules:

* Whether an allocator serves is what its health says. Others of the same name stand by, or start: where none serves,
  their health is watched on one connection each, since a thousand handshakes cost one that starts a second.
* Meanwhile the name is looked up every few seconds, and each address is tried that is new or could not be reached: an
  allocator that starts opens its port when it knows the cluster.
* No connection goes through a proxy: the allocator is in the cluster, and one that the environment names for other
  programs would be asked for an address that it cannot reach.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.http2 import Call, Fields, Http2Link, LinkError, connect
from hostport.files import read_all
from hostport.flags import Address
from hostport.version import VERSION
from hostport.x509 import certificates

CHECK_SECONDS = 5.0
"""How long an allocator may take to say whether it serves."""

STANDBY_SECONDS = 60.0
"""How long those that do not serve are waited for, until it is said that none does, and the CA read anew."""

AGAIN_SECONDS = 4.0
"""Between two tries of what was not reached, while others stand by. With chance it is two to six: an allocator that is
back knows of all nodes within ten."""

STEP_SECONDS = 1.0
SPREAD_SECONDS = 4.0
"""In which the agents begin that have waited for one allocator."""

SERVICE = "hostport.v1.AllocatorService"
HEALTH_REQUEST = b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode("ascii")
"""grpc.health.v1.HealthCheckRequest of our service: so short that no generated code is carried along for it."""

SERVING = b"\x08\x01"
"""The grpc.health.v1.HealthCheckResponse of one that serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the allocator is, and by what it is known.

    target: every address of it may be one of an allocator. name: what its certificate is for. ca: None: plain text.
    """

    target: Address
    name: Address
    ca: Path | None = None
    also: tuple[Path, ...] = ()
    token_file: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """TLS 1.3 with whoever the CA has signed. Raises OSError, ValueError where it cannot be read."""
        if self.ca is None:
            return None
        trusted = "".join(certificates(read_all(self.ca, self.also).decode("ascii", "replace")))
        if not trusted:
            raise ValueError(f"{self.ca} holds no certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority need not be a root, as for gRPC
        context.load_verify_locations(cadata=trusted)
        context.set_alpn_protocols(["h2"])
        return context

    def fields(self) -> Fields:
        """What a call says of its caller. Raises OSError, ValueError where the token cannot be read."""
        fields = [("user-agent", f"hostport-agent/{VERSION}")]
        if self.token_file:
            fields.append(("authorization", f"Bearer {self.token_file.read_text(encoding='ascii').strip()}"))
        return fields


class Search:
    """For the allocator that serves. Those of its name that stand by are watched meanwhile, on one connection each."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float]) -> None:
        """Raises OSError, ValueError where the CA cannot be read."""
        self._endpoint = endpoint
        self._tls = endpoint.tls()
        self._clock = clock
        self._watched: dict[tuple[str, int], tuple[Http2Link, Call]] = {}  # and the call that tells of the health

    def close(self) -> None:
        """Leaves those that stand by."""
        while self._watched:
            self._watched.popitem()[1][0].close()

    def serving(self, is_ending: Callable[[], bool]) -> Http2Link:
        """The connection to it, which is the caller's to close. Raises LinkError where there is none."""
        until = self._clock() + STANDBY_SECONDS
        while True:
            try:
                link = self._one_more()
            except LinkError:
                if not self._watched:
                    raise
                link = None
            again = self._clock() + AGAIN_SECONDS * (0.5 + random.random())  # noqa: S311 - no secret
            link = link or self._first_to_serve(min(again, until), is_ending)
            if link is not None:
                return link
            if not self._watched or is_ending() or self._clock() >= until:
                raise LinkError("no allocator that answers serves")

    def _one_more(self) -> Http2Link | None:
        """Connects to those that are not watched, until one serves. Raises LinkError where none does and one failed."""
        failed: LinkError | None = None
        for address in _resolved(self._endpoint.target):
            if address in self._watched:
                continue
            try:
                if self._serves(address):
                    return self._watched.pop(address)[0]
            except LinkError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return None

    def _serves(self, address: tuple[str, int]) -> bool:
        """Watches an address; gives whether its allocator serves. Raises LinkError where it does not say."""
        link = Http2Link(connect(address, self._tls, self._endpoint.name.host), self._clock)
        with contextlib.ExitStack() as failing:
            failing.callback(link.close)
            health = link.call("/grpc.health.v1.Health/Watch", str(self._endpoint.name), ())
            health.send(HEALTH_REQUEST, is_last=True)
            until = self._clock() + CHECK_SECONDS
            while not (said := _said(health)):
                left = until - self._clock()
                if left <= 0:
                    raise LinkError("it does not say whether it serves")
                link.receive(left)
            failing.pop_all()
        self._watched[address] = link, health
        return said[-1] == SERVING

    def _first_to_serve(self, until: float, is_ending: Callable[[], bool]) -> Http2Link | None:
        """That of those that stand by which serves first, until then: none is connected to again and again."""
        while self._watched and self._clock() < until and not is_ending():
            for address, (link, health) in tuple(self._watched.items()):
                try:
                    link.receive(STEP_SECONDS / len(self._watched))
                    if (said := _said(health)) and said[-1] == SERVING:
                        _rest(link, SPREAD_SECONDS * random.random(), self._clock)  # noqa: S311 - no secret
                        return self._watched.pop(address)[0]
                except LinkError:
                    self._watched.pop(address)[0].close()
        return None


def _said(health: Call) -> list[bytes]:
    """What has come of a watch since. Raises LinkError where it has ended."""
    said = health.messages()
    if not said and health.end is not None:
        raise LinkError(f"it does not say whether it serves: {health.end.message}")
    return said


def _rest(link: Http2Link, seconds: float, clock: Callable[[], float]) -> None:
    """So many seconds, in which the connection lives on. Raises LinkError."""
    until = clock() + seconds
    while (left := until - clock()) > 0:
        link.receive(left)


def _resolved(target: Address) -> list[tuple[str, int]]:
    """Those that a name has by now, in any order. Raises LinkError."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise LinkError(f"{target.host} has no address: {error}") from error
    addresses = list(dict.fromkeys((str(each[4][0]), target.port) for each in found))
    random.shuffle(addresses)
    return addresses
