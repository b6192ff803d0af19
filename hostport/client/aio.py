"""Leases for programs on asyncio.

    async with AsyncClient("127.0.0.1:50051") as client, client.lease("Relay/r1", Port("media", "UDP")) as lease:
        await serve(lease["media"])

Rules:

* A lease is renewed by a task of its own until it is released, at the end of the block or by `release`.
* An allocator that restarts is waited for: to ask again with the same request_id gets the first answer.
* Who is cancelled while ports are leased leaves none behind: what is still granted is given back beside it.
* When a lease is lost, the task that entered the block is cancelled, as by `asyncio.timeout`, and the block raises
  LeaseLostError: nothing goes on on ports that others may have. With `on_lost`, that is called instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import grpc

from hostport.client.channel import CONNECT_TIMEOUT, TIMEOUT, Link, check_address, options
from hostport.client.errors import HostportError, LeaseLostError
from hostport.client.lease_request import LeaseRequest, LeaseTerms, Port
from hostport.client.lease_state import RELEASE_SECONDS, LeaseState, OnLost
from hostport.client.renewal import ATTEMPT_SECONDS
from hostport.credentials import NO_CREDENTIALS, Credentials
from hostport.v1 import allocator_pb2 as pb

if TYPE_CHECKING:
    from hostport.v1.allocator_pb2_grpc import AllocatorServiceAsyncStub

log = logging.getLogger(__name__)

LATE_SECONDS = 1.0
"""How long an answer is waited for that only says what is to be given back."""


class AsyncClient:
    """Talks to the allocator at `address`, which is host:port. Made and used inside one event loop."""

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
        """The arguments are those of `Client`.

        Raises:
            ValueError: `address` is not host:port, or a timeout is no time.
            OSError: a credential file cannot be used.

        """
        self._address = check_address(address)
        self._closing: set[asyncio.Task[None]] = set()
        self._giving_back: set[asyncio.Task[None]] = set()

        def connect() -> grpc.aio.Channel:
            loaded, made = credentials.load(), options(server_name, program)
            if loaded is None:
                return grpc.aio.insecure_channel(address, options=made)
            return grpc.aio.secure_channel(address, loaded, options=made)

        self._link = Link(credentials, connect, self._part, timeout=timeout, connect_timeout=connect_timeout)

    def lease(self, owner: str, *ports: Port, on_lost: OnLost | None = None, **terms: Unpack[LeaseTerms]) -> AsyncLease:
        """A lease for `owner` (`Kind/name`), to be entered. Without ports: one TCP port. See `LeaseTerms` for the rest.

        Raises:
            ValueError: something of it cannot be meant; see `LeaseRequest`.

        """
        return AsyncLease(self, LeaseRequest(owner=owner, ports=ports or (Port(),), **terms), on_lost)

    async def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - not of this task: of the call and its repetitions
        """Calls, and again while there is no answer. Only for calls that may be repeated.

        Raises:
            HostportError: the call failed, or there was no answer in time.
            OSError: the credential files cannot be used.

        """
        attempts = self._link.attempts(timeout)
        while True:
            try:
                answer = await getattr(self.stub(), method)(request, timeout=attempts.timeout)
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.failed(error))
            else:
                attempts.succeeded()
                return answer

    async def allocate(self, request: pb.AllocateRequest) -> pb.AllocateResponse:
        """Calls Allocate. Who is cancelled meanwhile cannot know what was granted: that is given back.

        Raises:
            HostportError, OSError: as `call`.

        """
        asking = asyncio.get_running_loop().create_task(self.call("Allocate", request))
        try:
            answer: pb.AllocateResponse = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._keep(self._give_back(asking), self._giving_back)
            raise
        return answer

    async def release(self, allocation_id: str) -> None:
        """Gives ports back. What cannot be given back now is logged, and runs out by itself."""
        try:
            await self.call("Release", pb.ReleaseRequest(id=allocation_id), timeout=RELEASE_SECONDS)
        except (HostportError, OSError, grpc.aio.UsageError) as error:  # UsageError: the channel was closed
            log.warning("lease %s could not be released, and will run out: %s", allocation_id, error)

    def stub(self) -> AllocatorServiceAsyncStub:
        """For calls that stream. Raises OSError when the credential files cannot be used."""
        stub: AllocatorServiceAsyncStub = self._link.stub()
        return stub

    async def close(self) -> None:
        """Ends the connection; leases that were not released run out."""
        await asyncio.gather(*self._giving_back)
        await asyncio.gather(self._link.channel.close(), *self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}>"

    def _part(self, old: grpc.aio.Channel) -> None:
        self._keep(old.close(grace=ATTEMPT_SECONDS), self._closing)

    async def _give_back(self, asking: asyncio.Task[pb.AllocateResponse]) -> None:
        """What an Allocate that nobody waits for any more is still granted."""
        await asyncio.wait([asking], timeout=LATE_SECONDS)
        asking.cancel()  # where it has not ended
        if asking.done() and not asking.cancelled() and not asking.exception():
            granted = asking.result().allocation.id
            if granted:  # not so after a dry run
                await self.release(granted)

    def _keep(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        """Does some work beside everything else, as one of those that the end waits for."""
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)


class AsyncLease(LeaseState):
    """Leased ports, renewed by a task. `lost` is None as long as they are."""

    def __init__(self, client: AsyncClient, request: LeaseRequest, on_lost: OnLost | None) -> None:
        super().__init__(request, on_lost)
        self._client = client
        self._keeping: asyncio.Task[None] | None = None
        self._holder: asyncio.Task[Any] | None = None  # who entered the block, and is cancelled with it

    async def acquire(self) -> Self:
        """Leases the ports and begins to renew. Nobody is cancelled when it is lost.

        A lease that was released, or lost, may be leased again.

        Raises:
            HostportError: they cannot be had.
            RuntimeError: it is held already.

        """
        while not self._granted(await self._client.allocate(self._begin())):
            await self._client.release(self.id)
        lacking = self._lacking()
        if lacking is not None:
            await self._client.release(self.id)
            raise lacking
        self._held()
        self._keeping = asyncio.get_running_loop().create_task(self._keep(), name=f"lease-{self.id}")
        return self

    async def release(self) -> None:
        """Gives the ports back. What cannot be given back now runs out by itself."""
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        self._ended()
        await self._client.release(self.id)

    async def __aenter__(self) -> Self:
        await self.acquire()
        self._holder = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holder, self._holder = self._holder, None
        if self.lost is None:
            await self.release()
            return
        if self._on_lost is None:
            if holder is not None and holder.uncancel() > 0:
                return  # somebody else cancelled us as well, and goes first
            if error is None or kind is asyncio.CancelledError:
                raise self.lost from None

    async def _keep(self) -> None:
        """The task: renews until the lease is lost; to release it cancels this."""
        while True:
            await asyncio.sleep(self._rest())
            loss = self._too_late() or await self._renewed_once()
            if loss is not None:
                self._lose(loss)
                return

    async def _renewed_once(self) -> LeaseLostError | None:
        try:
            await self._client.call("Renew", self._renew, timeout=self._renew_timeout)
        except (HostportError, OSError, grpc.aio.UsageError) as error:
            return self._failed(error)
        self._renewed()
        return None

    def _lose(self, error: LeaseLostError) -> None:
        self._ended(error)
        log.error("%s", error)
        if self._on_lost is not None:
            self._on_lost(error)
        elif self._holder is not None:
            self._holder.cancel()  # nothing goes on on ports that others may have
