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
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

from allocator.cluster.messages import PROTOBUF, words_of_status
from allocator.cluster.projection import JSON

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # of a request that is no watch
RENEWAL_SECONDS = 60.0  # as client-go rereads token files
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


class ClusterConfigError(RuntimeError):
    """The operator's fault: there is no usable kubeconfig, and we do not run in a cluster."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration. `renew`: how to keep it fresh, where reading it again would run an exec plug-in each time."""

    configuration: Configuration
    renew: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose chunks are still to come. `is_binary`: in protobuf, not in JSON."""

    is_binary: bool
    chunks: AsyncIterator[bytes]


Load = Callable[[], Awaitable[Loaded]]


def loader(kubeconfig: str, environ: Mapping[str, str] = os.environ) -> Load:
    """Where the configuration comes from: the file that is named, else the cluster that we run in, else kubectl's.

    What it returns raises ClusterConfigError when there is nothing usable.
    """

    async def load() -> Loaded:
        configuration = Configuration()
        try:
            if not kubeconfig and environ.get("KUBERNETES_SERVICE_HOST"):
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
                return Loaded(configuration)  # its hook rereads the token
            path = _existing(kubeconfig or environ.get("KUBECONFIG") or "~/.kube/config")
            kept: Any = await load_kube_config(  # type: ignore[no-untyped-call]
                path, client_configuration=configuration, persist_config=False
            )
        except (ConfigException, OSError, ValueError, TypeError, KeyError, YAMLError) as error:
            where = kubeconfig or "no --kubeconfig, and not in a cluster"
            raise ClusterConfigError(f"no way to reach a cluster is known ({where}): {error}") from error
        if "exec" not in (kept._user or {}):  # noqa: SLF001 - as the package's own refresh_token asks
            return Loaded(configuration)

        async def renew() -> None:
            await kept.load_from_exec_plugin()  # runs it only when the credential is about to end
            if hasattr(kept, "token"):
                configuration.api_key["BearerToken"] = kept.token
            if hasattr(kept, "cert_file"):
                configuration.cert_file, configuration.key_file = kept.cert_file, kept.key_file

        return Loaded(configuration, renew)

    return load


def _existing(paths: str) -> str:
    """One or several paths of files, as in $KUBECONFIG, at least one of which is there."""
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise FileNotFoundError(f"there is no file {paths}")
    return paths


@dataclass(frozen=True, slots=True)
class _Link:
    """A way to the API server. `material` is what its TLS is made of."""

    loaded: Loaded
    rest: RESTClientObject
    material: tuple[object, ...]


class Client:
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
    async def stream(self, path: str, params: Params, silence: float, *, accept: str = JSON) -> AsyncIterator[Answer]:
        """The answer in chunks as they come. So many seconds of silence end it; raises as `get` does, at any chunk."""
        response = await self._request("GET", path, params, None, silence, accept)
        try:
            yield Answer(response.content_type == PROTOBUF, _chunks(response))
        finally:
            response.close()  # what is still under way is not wanted

    async def close(self) -> None:
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
    while True:
        with _translated():
            chunk = await response.content.readany()
        if not chunk:
            return
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
