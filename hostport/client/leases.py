"""Leases for programs with threads.

    with Client("127.0.0.1:50051") as client, client.lease("Relay/r1", Port("media", "UDP")) as lease:
        serve(lease["media"])

Rules:

* A lease is renewed by a thread of its own until it is released: at the end of the `with` block, by `release`, or as
  the process ends. A process that dies leaves it to run out.
* An allocator that restarts is waited for: to ask again with the same request_id gets the first answer.
* A lease that is lost is told at once to `on_lost`, in that thread. Without `on_lost` the end of the block raises
  LeaseLostError; `check` raises it at any time.
"""

from __future__ import annotations

import atexit
import logging
import random
import threading
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from hostport.client.asking import Ask, Grant, LeasedPort, Port, duration
from hostport.client.channel import Link, options
from hostport.client.errors import HostportError, LeaseLostError, NotFoundError, UnavailableError, error_of
from hostport.client.renewal import ATTEMPT_SECONDS, Renewal, elapsed, pause
from hostport.credentials import Credentials
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

RELEASE_SECONDS = 3.0
NO_CREDENTIALS = Credentials()


class Client:
    """Talks to the allocator at `address`. `patience`: seconds that a call may take, with its repetitions."""

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials = NO_CREDENTIALS,
        server_name: str = "",
        patience: float = 30.0,
        program: str = "hostport-client",
    ) -> None:
        """Raises OSError when a credential file cannot be used."""
        self._patience = patience

        def connect() -> grpc.Channel:
            loaded, made = credentials.load(), options(server_name, program)
            if loaded is None:
                return grpc.insecure_channel(address, options=made)
            return grpc.secure_channel(address, loaded, options=made)

        self._link = Link(credentials, connect, lambda old: old.close())

    def lease(
        self,
        owner: str,
        *ports: Port,
        namespace: str = "",
        description: str = "",
        range: tuple[int, int] | None = None,  # noqa: A002 - the field's word
        node: str = "",
        node_selector: Mapping[str, str] | None = None,
        ttl: float = 300.0,
        on_lost: Callable[[LeaseLostError], None] | None = None,
    ) -> Lease:
        """A lease for `owner` (`Kind/name`), to be entered. Without ports: one TCP port. See `Ask` for the rest."""
        ask = Ask(
            owner=owner,
            ports=ports or (Port(),),
            namespace=namespace,
            description=description,
            range=range,
            node=node,
            node_selector=node_selector or {},
            ttl=ttl,
        )
        return Lease(self, ask, on_lost)

    def call(self, method: str, request: Any, *, patience: float | None = None) -> Any:
        """Calls, and again while there is no answer. Only for calls that may be repeated.

        Raises:
            HostportError: the call failed, or there was no answer in time.
            OSError: the credential files cannot be used.

        """
        until, failures = elapsed() + (self._patience if patience is None else patience), 0
        while True:
            timeout = max(0.01, min(ATTEMPT_SECONDS, until - elapsed()))
            try:
                return getattr(self._link.stub(), method)(request, timeout=timeout)
            except grpc.RpcError as error:
                failure = error_of(error)
            rest = pause(failures, random.random())  # noqa: S311 - no secret
            failures += 1
            if not isinstance(failure, UnavailableError) or elapsed() + rest >= until:
                raise failure
            threading.Event().wait(rest)

    def close(self) -> None:
        """Ends the connection; leases that were not released run out."""
        self._link.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Lease:
    """Leased ports. `lost` is None as long as they are."""

    def __init__(self, client: Client, ask: Ask, on_lost: Callable[[LeaseLostError], None] | None) -> None:
        self.lost: LeaseLostError | None = None
        self._client = client
        self._ask = ask
        self._on_lost = on_lost
        self._grant: Grant | None = None
        self._over = threading.Event()

    @property
    def grant(self) -> Grant:
        """Raises RuntimeError before it was entered."""
        if self._grant is None:
            raise RuntimeError("the lease has not been acquired")
        return self._grant

    @property
    def id(self) -> str:
        return self.grant.id

    @property
    def node(self) -> str:
        return self.grant.node

    @property
    def ports(self) -> tuple[LeasedPort, ...]:
        return self.grant.ports

    @property
    def number(self) -> int:
        """Of the first port."""
        return self.grant.ports[0].number

    def __getitem__(self, name: str) -> int:
        return self.grant.number(name)

    def check(self) -> None:
        """Raises LeaseLostError when the lease is lost."""
        if self.lost is not None:
            raise self.lost

    def acquire(self) -> Self:
        """Leases the ports and begins to renew.

        Raises:
            HostportError: they cannot be had.

        """
        renewal = self._acquire()
        self._over.clear()
        self._thread = threading.Thread(target=self._keep, args=(renewal,), name=f"lease-{self.id}", daemon=True)
        self._thread.start()
        atexit.register(self.release)
        return self

    def release(self) -> None:
        """Gives the ports back. What cannot be given back now runs out by itself."""
        atexit.unregister(self.release)
        if self._over.is_set():
            return
        self._over.set()
        if self.lost is None:
            self._thread.join(ATTEMPT_SECONDS)
            self._give_back(self.id)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        if error is None and self._on_lost is None:
            self.check()

    def _acquire(self) -> Renewal:
        """Repeated for so long that the first answer may have run out, the request is made anew."""
        while True:
            sent = elapsed()
            answer = self._client.call("Allocate", self._ask.request(uuid.uuid4().hex))
            self._grant, renewal = Grant.of(answer.allocation), Renewal(self._ask.ttl, sent)
            if not renewal.is_over(elapsed()):
                return renewal
            self._give_back(self.id)

    def _give_back(self, allocation_id: str) -> None:
        try:
            self._client.call("Release", pb.ReleaseRequest(id=allocation_id), patience=RELEASE_SECONDS)
        except (HostportError, OSError, ValueError) as error:  # ValueError: the channel was closed
            log.warning("lease %s could not be released, and will run out: %s", allocation_id, error)

    def _keep(self, renewal: Renewal) -> None:
        request, trouble = pb.RenewRequest(id=self.id, ttl=duration(self._ask.ttl)), ""
        while not self._over.wait(renewal.wait(elapsed())):
            sent = elapsed()
            if renewal.is_over(sent):
                self._lose(LeaseLostError(f"lease {self.id} could not be renewed in time: {trouble}"))
                return
            try:
                self._client.call("Renew", request, patience=renewal.patience(sent))
            except NotFoundError as error:
                self._lose(LeaseLostError(f"lease {self.id} was ended: {error}", reason=error.reason))
                return
            except (HostportError, OSError, ValueError) as error:
                trouble = str(error)
                renewal.failed(elapsed(), random.random())  # noqa: S311 - no secret
            else:
                renewal.succeeded(sent)

    def _lose(self, error: LeaseLostError) -> None:
        if self._over.is_set():
            return
        self.lost = error
        atexit.unregister(self.release)
        log.error("%s", error)
        if self._on_lost is not None:
            self._on_lost(error)
