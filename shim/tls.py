"""TLS on both sides of the shim: its own certificate for the API server, and why TLS with the allocator fails.

Rules:

* The shim's certificate changes while it runs: cert-manager and the kubelet replace files, and nobody restarts a shim.
* What serves is never half of an old pair and half of a new one: a pair is tried in a scratch context first. A pair
  that does not fit is logged, and the old one stays.
* New handshakes use the new certificate; connections that stand keep theirs.
* gRPC would only say that the allocator did not answer in time. The cause is looked for while a call waits and there is
  no connection, once per `PAUSE` seconds, and no longer than `PATIENCE`.
* That look sends nothing but the handshake. With TLS 1.3 a server refuses a caller's certificate after the handshake:
  hence one byte is awaited, as a gRPC server speaks first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

from hostport.credentials import Credentials
from hostport.files import FileWatch
from hostport.flags import Address
from hostport.key_pairs import no_password
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


PAUSE, PATIENCE = 1.0, 2.0
"""Seconds."""


async def tls_trouble(address: Address, credentials: Credentials) -> str:
    """Why a TLS connection fails; empty: it does not, or not for TLS."""
    try:
        context = credentials.context()
    except OSError as error:
        return f"this shim's own files cannot be used: {error}"
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            try:
                return "" if await reader.read(1) else _turned_away(credentials)
            except ConnectionError:
                return _turned_away(credentials)
            finally:
                writer.close()
    except ssl.SSLCertVerificationError as error:
        return f"this shim does not trust the allocator's certificate: {error.verify_message.rstrip('.')}"
    except ssl.SSLError as error:
        return _refusal_text(error)
    except (OSError, TimeoutError):
        return ""


def _turned_away(credentials: Credentials) -> str:
    """The handshake was whole from here, and the other side ended it."""
    if credentials.cert is None:
        return "the allocator wants a certificate of this shim, which has none (--allocator-cert)"
    return "the allocator does not accept this shim's certificate"


def _refusal_text(error: ssl.SSLError) -> str:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return f"the allocator does not accept this shim's certificate: {reason}"
    return f"the handshake failed: {reason}"


class TlsDiagnosis:
    """Looks for the cause while calls wait for a connection. Must be used inside one event loop.

    `is_connected` says whether there is one.
    """

    def __init__(self, address: Address, credentials: Credentials, is_connected: Callable[[], bool]) -> None:
        self._address = address
        self._credentials = credentials
        self._is_connected = is_connected
        self._waiting = 0
        self._looking: asyncio.Task[None] | None = None
        self._said = self._trouble = ""

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A call waits for its answer."""
        self._waiting += 1
        if self._credentials.files and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look())
        try:
            yield
        finally:
            self._waiting -= 1

    @property
    def trouble(self) -> str:
        """Why there is no connection, if TLS is the reason; else empty."""
        return "" if self._is_connected() else self._trouble

    async def _look(self) -> None:
        """One for all calls, while there are any."""
        while self._waiting and not self._is_connected():
            self._trouble = await tls_trouble(self._address, self._credentials)
            self._log_change()
            await asyncio.sleep(PAUSE)

    def _log_change(self) -> None:
        if self._trouble != self._said:
            self._said = self._trouble
            log.warning("TLS with the allocator %s: %s", self._address, self._trouble or "no failure any more")

    async def close(self) -> None:
        """Ends the look that is under way, if there is one."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
