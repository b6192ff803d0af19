"""Leases for programs with threads.

    with Client("127.0.0.1:50051") as client, client.lease("Relay/r1", Port("media", "UDP")) as lease:
        serve(lease["media"])

This is not the asynchronous client on an event loop in a thread. The program may have a loop of its own, and in
grpc.aio the loops of all threads share one poller: whichever it wakes for nothing logs an error (grpc/grpc#25364).
What both clients know is in `lease_state` and `channel`; each adds how it waits and calls.

Rules:

* A lease is renewed by a thread of its own until it is released, at the end of the block, by `release`, or when the
  program ends.
* An allocator that restarts is waited for: to ask again with the same request_id gets the first answer.
* A lease that is lost is told at once to `on_lost`, in that thread. Without `on_lost` the end of the block raises
  LeaseLostError; `check` raises it at any time.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from hostport.client.channel import CONNECT_TIMEOUT, TIMEOUT, Link, check_address, options
from hostport.client.errors import HostportError, LeaseLostError
from hostport.client.lease_request import LeaseRequest, LeaseTerms, Port
from hostport.client.lease_state import RELEASE_SECONDS, LeaseState, OnLost
from hostport.client.renewal import ATTEMPT_SECONDS
from hostport.credentials import NO_CREDENTIALS, Credentials
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)


class Client:
    """Talks to the allocator at `address`, which is host:port. May be used by several threads."""

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials = NO_CREDENTIALS,
        server_name: str = "",
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        program: str = "hostport-client",
    ) -> None:
        """`timeout`: seconds that a call may take, with its repetitions.

        `connect_timeout`: the same until the allocator has answered once. `server_name`: the name that its certificate
        must have, if that is not the host's. `program`: what its log calls this one.

        Raises:
            ValueError: `address` is not host:port, or a timeout is no time.
            OSError: a credential file cannot be used.

        """
        self._address = check_address(address)

        def connect() -> grpc.Channel:
            loaded, made = credentials.load(), options(server_name, program)
            if loaded is None:
                return grpc.insecure_channel(address, options=made)
            return grpc.secure_channel(address, loaded, options=made)

        self._link = Link(credentials, connect, _close_later, timeout=timeout, connect_timeout=connect_timeout)

    def lease(self, owner: str, *ports: Port, on_lost: OnLost | None = None, **terms: Unpack[LeaseTerms]) -> Lease:
        """A lease for `owner` (`Kind/name`), to be entered. Without ports: one TCP port. See `LeaseTerms` for the rest.

        Raises:
            ValueError: something of it cannot be meant; see `LeaseRequest`.

        """
        return Lease(self, LeaseRequest(owner=owner, ports=ports or (Port(),), **terms), on_lost)

    def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """Calls, and again while there is no answer. Only for calls that may be repeated.

        Raises:
            HostportError: the call failed, or there was no answer in time.
            OSError: the credential files cannot be used.

        """
        attempts = self._link.attempts(timeout)
        while True:
            try:
                answer = getattr(self._link.stub(), method)(request, timeout=attempts.timeout)
            except grpc.RpcError as error:
                time.sleep(attempts.failed(error))
            else:
                attempts.succeeded()
                return answer

    def close(self) -> None:
        """Ends the connection; leases that were not released run out."""
        self._link.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}>"


def _close_later(old: grpc.Channel) -> None:
    """Closes a channel when no attempt of another thread can be on it any more: what is closed takes no call."""
    closing = threading.Timer(2 * ATTEMPT_SECONDS, old.close)
    closing.daemon = True
    closing.start()


class Lease(LeaseState):
    """Leased ports, renewed by a thread. `lost` is None as long as they are."""

    def __init__(self, client: Client, request: LeaseRequest, on_lost: OnLost | None) -> None:
        super().__init__(request, on_lost)
        self._client = client
        self._over = threading.Event()  # released, or lost and released

    def acquire(self) -> Self:
        """Leases the ports and begins to renew. A lease that was released, or lost, may be leased again.

        Raises:
            HostportError: they cannot be had.
            RuntimeError: it is held already.

        """
        while not self._granted(self._client.call("Allocate", self._begin())):
            self._give_back()
        lacking = self._lacking()
        if lacking is not None:
            self._give_back()
            raise lacking
        self._held()
        self._over.clear()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{self.id}", daemon=True)
        self._thread.start()
        atexit.register(self.release)
        return self

    def release(self) -> None:
        """Gives the ports back. What cannot be given back now runs out by itself."""
        atexit.unregister(self.release)
        if self._over.is_set():
            return
        self._over.set()  # the thread ends, and tells nobody of a loss from now on
        if self.lost is None:
            self._thread.join(ATTEMPT_SECONDS)  # else it might renew what is given back
            self._give_back()
            self._ended()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        if error is None and self._on_lost is None:
            self.check()

    def _give_back(self) -> None:
        try:
            self._client.call("Release", pb.ReleaseRequest(id=self.id), timeout=RELEASE_SECONDS)
        except (HostportError, OSError, ValueError) as error:  # ValueError: the channel was closed
            log.warning("lease %s could not be released, and will run out: %s", self.id, error)

    def _keep(self) -> None:
        """The thread: renews until the lease is released or lost."""
        while not self._over.wait(self._rest()):
            loss = self._too_late() or self._renewed_once()
            if loss is not None:
                self._lose(loss)
                return

    def _renewed_once(self) -> LeaseLostError | None:
        try:
            self._client.call("Renew", self._renew, timeout=self._renew_timeout)
        except (HostportError, OSError, ValueError) as error:
            return self._failed(error)
        self._renewed()
        return None

    def _lose(self, error: LeaseLostError) -> None:
        if self._over.is_set():  # released meanwhile, which is why it was ended
            return
        self._ended(error)
        atexit.unregister(self.release)
        log.error("%s", error)
        if self._on_lost is not None:
            self._on_lost(error)
