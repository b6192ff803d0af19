"""Leases for programs on asyncio.

    async with AsyncClient("127.0.0.1:50051") as client, client.lease("Relay/r1", Port("media", "UDP")) as lease:
        await serve(lease["media"])

Rules:

* A lease is renewed by a task of its own until it is released, at the end of the block or by `release`.
* An allocator that restarts is waited for: to ask again with the same request_id gets the first answer.
* When a lease is lost, the task that entered the block is cancelled, as by `asyncio.timeout`, and the block raises
  LeaseLostError: nothing goes on on ports that others may have. With `on_lost`, that is called instead.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from hostport.client.asking import Ask, Grant, LeasedPort, Port, duration
from hostport.client.channel import Link, options
from hostport.client.errors import HostportError, LeaseLostError, NotFoundError, UnavailableError, error_of
from hostport.client.leases import NO_CREDENTIALS, RELEASE_SECONDS
from hostport.client.renewal import ATTEMPT_SECONDS, Renewal, elapsed, pause
from hostport.credentials import Credentials
from hostport.v1 import allocator_pb2 as pb

if TYPE_CHECKING:
    from hostport.v1.allocator_pb2_grpc import AllocatorServiceAsyncStub

log = logging.getLogger(__name__)


class AsyncClient:
    """Talks to the allocator at `address`. Made and used inside one event loop; see `Client` for the arguments."""

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
        self._closing: set[asyncio.Task[None]] = set()

        def connect() -> grpc.aio.Channel:
            loaded, made = credentials.load(), options(server_name, program)
            if loaded is None:
                return grpc.aio.insecure_channel(address, options=made)
            return grpc.aio.secure_channel(address, loaded, options=made)

        self._link = Link(credentials, connect, self._part)

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
    ) -> AsyncLease:
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
        return AsyncLease(self, ask, on_lost)

    async def call(self, method: str, request: Any, *, patience: float | None = None) -> Any:
        """Calls, and again while there is no answer. Only for calls that may be repeated.

        Raises:
            HostportError: the call failed, or there was no answer in time.
            OSError: the credential files cannot be used.

        """
        until, failures = elapsed() + (self._patience if patience is None else patience), 0
        while True:
            timeout = max(0.01, min(ATTEMPT_SECONDS, until - elapsed()))
            try:
                return await getattr(self.stub(), method)(request, timeout=timeout)
            except grpc.RpcError as error:
                failure = error_of(error)
            rest = pause(failures, random.random())  # noqa: S311 - no secret
            failures += 1
            if not isinstance(failure, UnavailableError) or elapsed() + rest >= until:
                raise failure
            await asyncio.sleep(rest)

    def stub(self) -> AllocatorServiceAsyncStub:
        """For calls that stream. Raises OSError when the credential files cannot be used."""
        stub: AllocatorServiceAsyncStub = self._link.stub()
        return stub

    async def close(self) -> None:
        """Ends the connection; leases that were not released run out."""
        await asyncio.gather(self._link.channel.close(), *self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _part(self, old: grpc.aio.Channel) -> None:
        closing = asyncio.get_running_loop().create_task(old.close(grace=ATTEMPT_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class AsyncLease:
    """Leased ports. `lost` is None as long as they are."""

    def __init__(self, client: AsyncClient, ask: Ask, on_lost: Callable[[LeaseLostError], None] | None) -> None:
        self.lost: LeaseLostError | None = None
        self._client = client
        self._ask = ask
        self._on_lost = on_lost
        self._grant: Grant | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._holder: asyncio.Task[Any] | None = None

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

    async def acquire(self) -> Self:
        """Leases the ports and begins to renew. Nobody is cancelled when it is lost.

        Raises:
            HostportError: they cannot be had.

        """
        renewal = await self._acquire()
        self._keeping = asyncio.get_running_loop().create_task(self._keep(renewal), name=f"lease-{self.id}")
        return self

    async def release(self) -> None:
        """Gives the ports back. What cannot be given back now runs out by itself."""
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await self._give_back(self.id)

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

    async def _acquire(self) -> Renewal:
        """Repeated for so long that the first answer may have run out, the request is made anew."""
        while True:
            sent = elapsed()
            answer = await self._client.call("Allocate", self._ask.request(uuid.uuid4().hex))
            self._grant, renewal = Grant.of(answer.allocation), Renewal(self._ask.ttl, sent)
            if not renewal.is_over(elapsed()):
                return renewal
            await self._give_back(self.id)

    async def _give_back(self, allocation_id: str) -> None:
        try:
            await self._client.call("Release", pb.ReleaseRequest(id=allocation_id), patience=RELEASE_SECONDS)
        except (HostportError, OSError, grpc.aio.UsageError) as error:  # UsageError: the channel was closed
            log.warning("lease %s could not be released, and will run out: %s", allocation_id, error)

    async def _keep(self, renewal: Renewal) -> None:
        request, trouble = pb.RenewRequest(id=self.id, ttl=duration(self._ask.ttl)), ""
        while True:
            await asyncio.sleep(renewal.wait(elapsed()))
            sent = elapsed()
            if renewal.is_over(sent):
                self._lose(LeaseLostError(f"lease {self.id} could not be renewed in time: {trouble}"))
                return
            try:
                await self._client.call("Renew", request, patience=renewal.patience(sent))
            except NotFoundError as error:
                self._lose(LeaseLostError(f"lease {self.id} was ended: {error}", reason=error.reason))
                return
            except (HostportError, OSError, grpc.aio.UsageError) as error:
                trouble = str(error)
                renewal.failed(elapsed(), random.random())  # noqa: S311 - no secret
            else:
                renewal.succeeded(sent)

    def _lose(self, error: LeaseLostError) -> None:
        self.lost = error
        log.error("%s", error)
        if self._on_lost is not None:
            self._on_lost(error)
        elif self._holder is not None:
            self._holder.cancel()
