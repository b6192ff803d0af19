"""Why TLS fails between this shim and the allocator, in words: gRPC would only say that nobody answered in time.

Rules:

* Asked only while a call waits and there is no connection, once per `PAUSE` seconds, and no longer than `PATIENCE`.
* Nothing is sent but the handshake. With TLS 1.3 a server refuses a caller's certificate after it: so one byte is
  awaited, as a gRPC server speaks first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterator

from hostport.credentials import Credentials
from hostport.flags import Address

log = logging.getLogger(__name__)

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
        return _refusal(error)
    except (OSError, TimeoutError):
        return ""


def _turned_away(credentials: Credentials) -> str:
    """The handshake was whole from here, and the other side ended it."""
    if credentials.cert is None:
        return "the allocator wants a certificate of this shim, which has none (--allocator-cert)"
    return "the allocator does not accept this shim's certificate"


def _refusal(error: ssl.SSLError) -> str:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if "alert" in reason and ("certificate" in reason or "unknown ca" in reason):
        return f"the allocator does not accept this shim's certificate: {reason}"
    return f"the handshake failed: {reason}"


class Doctor:
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
            self._tell()
            await asyncio.sleep(PAUSE)

    def _tell(self) -> None:
        if self._trouble != self._said:
            self._said = self._trouble
            log.warning("TLS with the allocator %s: %s", self._address, self._trouble or "no failure any more")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
