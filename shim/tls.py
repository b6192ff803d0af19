"""The shim's own certificate, which changes under way: cert-manager and kubelet replace files, nobody restarts us.

Rules:

* What serves is never half of an old pair and half of a new one: a pair is tried in a scratch context first. A pair
  that does not fit is logged, and the old one stays.
* New handshakes use the new certificate; connections that stand keep theirs.
"""

from __future__ import annotations

import logging
import math
import ssl
from pathlib import Path

from hostport.files import FileWatch, no_password
from hostport.x509 import not_after

log = logging.getLogger(__name__)

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Certificate:
    """A certificate and its key, and the live context that serves them."""

    def __init__(self, *, cert: Path, key: Path, minimum: ssl.TLSVersion) -> None:
        """Raises OSError (ssl.SSLError is one) when the pair cannot be loaded."""
        self._cert = cert
        self._key = key
        self._watch = FileWatch((cert, key))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = minimum
        self.expires = math.nan  # when the certificate ends, seconds since the epoch; not a number: unknown
        self._load_into(self.context)
        self._note_end()

    def refresh(self) -> None:
        """Takes up a pair that changed on disk, if it is one."""
        if not self._watch.changed():
            return
        try:
            self._load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except OSError as error:
            log.warning("the new certificate is not used, the old one stays: %s: %s", self._cert, error)
            return
        try:
            self._load_into(self.context)
        except OSError as error:  # it changed between two reads
            log.warning("the certificate changed while it was loaded, trying again: %s", error)
            self._watch.forget()
            return
        self._note_end()
        log.info("certificate reloaded: %s", self._cert)

    def _note_end(self) -> None:
        try:
            self.expires = not_after(self._cert.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:  # it serves all the same
            log.warning("when the certificate ends cannot be found out: %s: %s", self._cert, error)
            self.expires = math.nan

    def _load_into(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._cert, self._key, password=no_password)
