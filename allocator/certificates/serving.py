"""What the gRPC service shows and whom it trusts, replaced while it serves.

gRPC asks before each handshake whether there is something new, in threads of its own, one at a time for each port. A
connection that stands keeps what it began with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

import grpc

from allocator.certificates.issuing import Identity, Pair, issue, new_authority, pem

STARTING_SECONDS = 3600.0


class Serving:
    """Hands the newest certificate to every port. Until the first is there, one serves that nobody can trust."""

    def __init__(self, *, now: float) -> None:
        stranger = new_authority(now=now, seconds=STARTING_SECONDS)
        pair = issue(stranger, Identity(name="starting"), now=now, seconds=STARTING_SECONDS)
        self._newest = _configuration(pair, pem([stranger.certificate]))
        self._ports: list[deque[grpc.ServerCertificateConfiguration]] = []

    def serve(self, pair: Pair, trusted: str) -> None:
        """From now on this certificate, to callers whose own comes from an authority of this bundle."""
        self._newest = _configuration(pair, trusted)
        for port in self._ports:
            port.append(self._newest)

    def credentials(self, *, asks_clients: bool) -> grpc.ServerCredentials:
        """Credentials of one port. gRPC can ask all callers for a certificate, or none."""
        news: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)  # its methods are atomic
        self._ports.append(news)

        def fresh() -> grpc.ServerCertificateConfiguration | None:
            try:
                return news.pop()
            except IndexError:
                return None

        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", fresh)  # None means unchanged
        return grpc.dynamic_ssl_server_credentials(self._newest, fetch, require_client_authentication=asks_clients)


def _configuration(pair: Pair, trusted: str) -> grpc.ServerCertificateConfiguration:
    chain = pem([pair.certificate]).encode()
    return grpc.ssl_server_certificate_configuration([(pair.key.encode(), chain)], root_certificates=trusted.encode())
