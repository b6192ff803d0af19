"""What the gRPC service shows and whom it trusts, replaced while it serves: files, or what the allocator makes.

Rules:

* gRPC asks before each handshake whether there is something new, in threads of its own, one at a time for each port. A
  connection that stands keeps what it began with.
* What serves is never half of an old pair and half of a new one: files that do not fit together, or that changed while
  they were read, are left alone, and what was loaded stays.
* Former authorities stay trusted, and a new certificate waits until its authority can be known: see hostport.rollover.
"""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import grpc
from cryptography.x509 import load_pem_x509_certificate

from allocator.certificates.issuing import CertificateSubject, Pair, issue, new_authority, pem
from hostport.files import FileWatch, read_all
from hostport.key_pairs import load_pair
from hostport.rollover import KeyPair, RollOver

log = logging.getLogger(__name__)

STARTING_SECONDS = 3600.0


class BuiltInCertificate:
    """Hands the newest certificate to every port. Until the first is there, one serves that nobody can trust."""

    def __init__(self, *, now: float) -> None:
        stranger = new_authority(now=now, seconds=STARTING_SECONDS)
        pair = issue(stranger, CertificateSubject(name="starting"), now=now, seconds=STARTING_SECONDS)
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


class CertificateFiles:
    """Where the certificate, its key and, if clients must show one, the CA of their certificates are: PEM.

    `also`: further CAs, where the files are there. `delay`: seconds until a new authority is known elsewhere.
    `asks_clients`: whether clients must show a certificate, where there is a CA.
    """

    def __init__(
        self,
        *,
        cert: Path,
        key: Path,
        client_ca: Path | None,
        also: tuple[Path, ...] = (),
        delay: float = 0.0,
        asks_clients: bool = True,
    ) -> None:
        """Raises OSError (ssl.SSLError is one) when they cannot be loaded."""
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._also = also
        self._asks_clients = asks_clients and client_ca is not None
        self._roll_over = RollOver(delay)
        self._watch = FileWatch((cert, key, *([client_ca] if client_ca else []), *also))
        self.expires = 0.0  # when the certificate that serves ends, seconds since the epoch
        self._first = self._load()

    def authorities(self) -> Mapping[str, float]:
        """When each authority ends that is trusted: by fingerprint, seconds since the epoch."""
        return self._roll_over.authorities()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files."""
        fresh = cast("Callable[[], grpc.ServerCertificateConfiguration]", self.fresh)  # None means unchanged
        return grpc.dynamic_ssl_server_credentials(self._first, fresh, require_client_authentication=self._asks_clients)

    def fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold, if that is new and usable. Called from gRPC's threads."""
        if not (self._watch.changed() or self._roll_over.is_due()):
            return None
        try:
            loaded = self._load()
        except OSError as error:
            log.warning("the new certificate is not used, the old one stays: %s: %s", self._cert, error)
            return None
        if self._watch.changed():
            self._watch.forget()  # swapped while it was read: the next handshake looks again
            return None
        log.info("certificate reloaded: %s", self._cert)
        return loaded

    def _load(self) -> grpc.ServerCertificateConfiguration:
        """Tried by OpenSSL first: gRPC would take anything, and refuse every handshake."""
        pair = KeyPair(self._cert.read_bytes(), self._key.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(context, pair.chain, pair.key)
        roots = None
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
            roots = self._roll_over.trust(read_all(self._client_ca, self._also))
        _chain_expiry(self._cert, pair)
        pair = self._roll_over.show(pair)
        self.expires = _chain_expiry(self._cert, pair)
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], root_certificates=roots)


def _chain_expiry(path: Path, pair: KeyPair) -> float:
    try:
        return load_pem_x509_certificate(pair.chain).not_valid_after_utc.timestamp()
    except ValueError as error:  # stricter than OpenSSL
        raise OSError(f"{path}: {error}") from error
