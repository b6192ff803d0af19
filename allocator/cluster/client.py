"""The API server over HTTP: the `kubernetes` package's configuration, credentials and transport, our own requests.

The package's own Watch never advances its resourceVersion on raw events, and its SharedInformer asks again at once
when it is refused; its models cost 50 times a typed projection. So bytes are asked for, and bytes are returned.

Rules:

* Errors of the transport are translated on the line where they enter: `ApiError` is an answer, `UnreachableError` is
  none. The caller decides what to repeat; here is one repetition only, after a 401, with credentials read anew.
* Credentials are read anew every minute, so that a rotated token or certificate is in use before the old one ends. An
  exec plug-in that said how long its credential lives is asked again by the package itself, shortly before.
* Answers are not compressed: to inflate them would take longer than a cluster network takes to carry them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode
from urllib.request import getproxies

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException

from allocator.cluster.credentials import ClusterConfigError, Load, Loaded
from allocator.cluster.messages import PROTOBUF, SIZE_BYTES, ProtobufFrame, words_of_status
from allocator.cluster.projection import JSON

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # of a request that is no watch
RENEWAL_SECONDS = 60.0  # as client-go rereads token files
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "hostport-allocator"}

Params = Mapping[str, str]


class ApiError(Exception):
    """The API server answered, and not with what was asked for. `retry_after`: seconds that it asks us to wait."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}" if message else f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class UnreachableError(Exception):
    """No answer, or one that broke off."""


def retry_pause(failures: int, chance: float, *, at_least: float = 0.0) -> float:
    """Seconds to wait after so many failures in a row (1 or more); `chance` is in [0, 1).

    The bound doubles from 0.1 to 10 seconds; half of it is fixed and half is chance, so that clients that failed
    together do not come back together. What the server asked for (Retry-After) is a minimum on top of which the
    chance comes.
    """
    bound = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30))
    wait: float = bound * (1 + chance) / 2
    return max(wait, at_least + bound * chance / 2 if at_least else 0.0)


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """An answer whose chunks are still to come. `is_binary`: in protobuf, not in JSON."""

    is_binary: bool
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class _Link:
    """A way to the API server. `material` is what its TLS is made of."""

    loaded: Loaded
    rest: RESTClientObject
    material: tuple[object, ...]


class ApiClient:
    """Requests to one API server."""

    def __init__(self, load: Load, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._monotonic = monotonic
        self._link: _Link | None = None
        self._renewed = float("-inf")
        self._lock = asyncio.Lock()

    async def get(self, path: str, params: Params = {}, *, accept: str = JSON) -> bytes:  # noqa: B006 - only read
        """The body of the answer, in one of the encodings that are accepted.

        Raises:
            ApiError, UnreachableError: as the module says.
            ClusterConfigError: there never was a usable configuration.

        """
        return await self.send("GET", path, params, accept=accept)

    async def send(
        self,
        method: str,
        path: str,
        params: Params = {},  # noqa: B006 - only read
        body: Any = None,
        *,
        accept: str = JSON,
    ) -> bytes:
        """Sends JSON, if any, and returns the body of the answer; raises as `get` does. A list is a JSON patch."""
        response = await self._request(method, path, params, body, SILENCE_SECONDS, accept)
        with _translated():
            async with response:
                return await response.read()

    @asynccontextmanager
    async def stream(
        self, path: str, params: Params, silence: float, *, accept: str = JSON
    ) -> AsyncIterator[StreamedResponse]:
        """The answer in chunks as they come. So many seconds of silence end it; raises as `get` does, at any chunk."""
        response = await self._request("GET", path, params, None, silence, accept)
        try:
            yield StreamedResponse(response.content_type == PROTOBUF, _chunks(response))
        finally:
            response.close()  # what is still under way is not wanted

    async def close(self) -> None:
        """Closes the connections, for whoever made the client; nothing can be asked afterwards."""
        if self._link is not None:
            await self._link.rest.close()

    async def _request(
        self, method: str, path: str, params: Params, body: Any, silence: float, accept: str
    ) -> aiohttp.ClientResponse:
        """The head of the answer, if it is a success."""
        with _translated():
            try:
                return await self._once(method, path, params, body, silence, accept)
            except ApiError as error:
                if error.status != 401:
                    raise
            await self._renew(is_refused=True)
            return await self._once(method, path, params, body, silence, accept)

    async def _once(
        self, method: str, path: str, params: Params, body: Any, silence: float, accept: str
    ) -> aiohttp.ClientResponse:
        link = await self._renew()
        configuration = link.loaded.configuration
        headers = HEADERS | {"Accept": accept}
        if method == "PATCH":
            headers["Content-Type"] = f"application/{'json' if isinstance(body, list) else 'merge'}-patch+json"
        token = await configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token.strip()
        url = f"{configuration.host}{path}" + (f"?{urlencode(params)}" if params else "")
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=silence)
        answer = await link.rest.request(  # type: ignore[no-untyped-call]
            method, url, headers=headers, body=body, _request_timeout=timeout
        )
        response: aiohttp.ClientResponse = answer.response
        if response.status < 400:
            return response
        async with response:
            raise _api_error(response, await response.read())

    async def _renew(self, *, is_refused: bool = False) -> _Link:
        """The link, with fresh credentials where it is time, and fresh connections where certificates changed."""
        async with self._lock:
            if self._link and not is_refused and self._monotonic() < self._renewed + RENEWAL_SECONDS:
                return self._link
            self._renewed = self._monotonic()
            old, link = self._link, await self._relink(is_refused=is_refused)
            self._link = link
        if old and old.rest is not link.rest:
            log.info("certificates have changed: connecting to the API server anew")
            await old.rest.close()
        return link

    async def _relink(self, *, is_refused: bool) -> _Link:
        old = self._link
        try:
            if old and old.loaded.renew and not is_refused:
                loaded = old.loaded
                await old.loaded.renew()
            else:
                loaded = await self._load()
            material = await asyncio.to_thread(_material, loaded.configuration)
        except (ClusterConfigError, OSError) as error:
            if old is None:
                raise
            log.warning("credentials cannot be renewed, the old ones stay in use: %s", error)
            return old
        if old and material == old.material:
            return _Link(loaded, old.rest, material)
        # From the environment aiohttp takes proxies, and for each request a look by a thread into a netrc file.
        loaded.configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
        return _Link(loaded, RESTClientObject(loaded.configuration), material)


def _material(configuration: Configuration) -> tuple[object, ...]:
    """What a TLS connection is made of."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    return (
        configuration.host,
        configuration.verify_ssl,
        configuration.tls_server_name,
        configuration.proxy,
        *(Path(path).read_bytes() if path else b"" for path in paths),
    )


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with _translated():
        while chunk := await response.content.readany():
            yield chunk


def _api_error(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    try:
        if response.content_type == PROTOBUF:
            message, reason = words_of_status(body)
        else:
            status = json.loads(body)
            message, reason = str(status.get("message", "")), str(status.get("reason") or "")
        reason = reason or response.reason or ""
    except (ValueError, AttributeError):
        message, reason = body[:200].decode(errors="replace").strip(), response.reason or ""
    return ApiError(response.status, reason, message, _seconds(response.headers.get("Retry-After", "")))


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0  # a date: our own back-off will do


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientPayloadError as error:
        raise UnreachableError("the connection broke off") from error
    except (aiohttp.ClientError, TimeoutError, OSError, ConfigException) as error:
        raise UnreachableError(str(error) or type(error).__name__) from error


class KubernetesApi(Protocol):
    """What we need of the API server."""

    async def send(self, method: str, path: str, params: Any = ..., body: Any = ...) -> bytes:
        """Sends JSON; returns the body of the answer or raises ApiError, UnreachableError."""


class StreamingApi(KubernetesApi, Protocol):
    """The same, and what is told as it happens."""

    def stream(self, path: str, params: Any, silence: float) -> AbstractAsyncContextManager[StreamedResponse]:
        """The answer in chunks as they come."""


LONGEST_PART = 16 << 20  # bytes of a line or frame: etcd takes 1.5 MiB; JSON may be a few times that


def complete_parts(answer: StreamedResponse) -> AsyncIterator[Sequence[bytes]]:
    """The events of a watch that arrived together, as lines of JSON or frames of protobuf."""
    return _complete_frames(answer.chunks) if answer.is_binary else _complete_lines(answer.chunks)


async def _complete_frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[ProtobufFrame]]:
    """Each begins with its length."""
    rest = b""
    async for chunk in chunks:
        rest, frames, start = rest + chunk, [], 0
        while len(rest) >= (begin := start + SIZE_BYTES):
            size = int.from_bytes(rest[start:begin], "big")
            if size > LONGEST_PART:
                raise UnreachableError(f"the watch announces a frame of {size:,} bytes, more than {LONGEST_PART:,}")
            if len(rest) < begin + size:
                break
            start = begin + size
            frames.append(ProtobufFrame(rest[begin:start]))
        rest = rest[start:]
        if frames:
            yield frames
    if rest:
        raise UnreachableError("the watch ended within a frame")


async def _complete_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """One that was cut off by the end is dropped: it will come again."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_PART:
            raise UnreachableError("the watch sends a line without an end")
        lines = [line for line in lines if line.strip()]
        if lines:
            yield lines
