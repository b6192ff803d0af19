"""The certificate of the gRPC service and the CA of its clients, in files that change under way.

Rules:

* gRPC asks before each handshake; a connection that stands keeps what it began with.
* What serves is never half of an old pair and half of a new one: files that do not fit together, or that changed while
  they were read, are left alone, and what was loaded stays.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
from cryptography.x509 import load_pem_x509_certificate

from hostport.files import FileWatch, no_password

log = logging.getLogger(__name__)


class Files:
    """Where the certificate, its key and, if clients must show one, the CA of their certificates are: PEM."""

    def __init__(self, *, cert: Path, key: Path, client_ca: Path | None) -> None:
        """Raises OSError (ssl.SSLError is one) when they cannot be loaded."""
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._watch = FileWatch((cert, key, *([client_ca] if client_ca else [])))
        self.expires = 0.0  # when the certificate that serves ends, seconds since the epoch
        self._first = self._load()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that follow the files."""
        fresh = cast("Callable[[], grpc.ServerCertificateConfiguration]", self.fresh)  # None means unchanged
        return grpc.dynamic_ssl_server_credentials(
            self._first, fresh, require_client_authentication=self._client_ca is not None
        )

    def fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold, if that is new and usable. Called from gRPC's threads."""
        if not self._watch.changed():
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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._cert, self._key, password=no_password)
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
        pair = (self._key.read_bytes(), self._cert.read_bytes())
        roots = self._client_ca.read_bytes() if self._client_ca else None
        try:
            self.expires = load_pem_x509_certificate(pair[1]).not_valid_after_utc.timestamp()
        except ValueError as error:  # stricter than OpenSSL
            raise OSError(f"{self._cert}: {error}") from error
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)
