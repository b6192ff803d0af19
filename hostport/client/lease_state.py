"""A lease without its waiting: what both kinds of lease know, and what each step of theirs means. No I/O.

A kind of lease adds how it waits and calls: `sync.Lease` with a thread, `aio.AsyncLease` with a task. Its steps:

1. call Allocate with `_begin()`; while `_granted(answer)` is False, give those ports back and begin anew. Where
   `_lacking()` is an error, give them back and raise it. Then `_held()`.
2. wait for `_rest()` seconds.
3. call Renew with `_renew`, unless `_too_late()`; then `_renewed()` or `_failed(error)`. Back to 2.

Rules:

* An error of `_too_late` or `_failed` means that the lease is lost from now on, and nothing is called any more.
* It is held from `_held()` on, until it is lost or given back (`_ended()`). Then it may be leased again.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

from hostport.client.errors import HostportError, LeaseLostError, NotFoundError, UnavailableError
from hostport.client.lease_request import Grant, LeasedPort, LeaseRequest, duration
from hostport.client.renewal import Renewal, elapsed
from hostport.v1 import allocator_pb2 as pb

RELEASE_SECONDS = 3.0
"""Seconds that giving ports back may take: what cannot be given back runs out by itself."""

OnLost = Callable[[LeaseLostError], None]


class LeaseState:
    """Leased ports. `lost` is None as long as they are."""

    def __init__(self, request: LeaseRequest, on_lost: OnLost | None) -> None:
        self.lost: LeaseLostError | None = None
        self._request = request
        self._on_lost = on_lost
        self._grant: Grant | None = None
        self._renewal = Renewal(request.ttl, elapsed())
        self._sent = 0.0
        self._trouble = ""
        self._is_held = False

    @property
    def grant(self) -> Grant:
        """What was granted. Raises RuntimeError before it was acquired."""
        if self._grant is None:
            raise RuntimeError("the lease has not been acquired")
        return self._grant

    @property
    def id(self) -> str:
        """The allocation's id."""
        return self.grant.id

    @property
    def node(self) -> str:
        """The node on which the ports are leased."""
        return self.grant.node

    @property
    def ports(self) -> tuple[LeasedPort, ...]:
        """In the order in which they were asked for."""
        return self.grant.ports

    @property
    def number(self) -> int:
        """Of the first port."""
        return self.grant.ports[0].number

    def __getitem__(self, name: str) -> int:
        """The number of the port of that name, of a block the first. Raises KeyError when there is none."""
        return self.grant.port(name).number

    def port(self, name: str) -> LeasedPort:
        """The port of that name, with all of its `numbers`. Raises KeyError when there is none."""
        return self.grant.port(name)

    def check(self) -> None:
        """Raises LeaseLostError when the lease is lost."""
        if self.lost is not None:
            raise self.lost

    def __repr__(self) -> str:
        kind, owner = type(self).__name__, self._request.owner
        if self._grant is None:
            return f"<{kind} for {owner}, not acquired: {', '.join(map(str, self._request.ports))}>"
        numbers = ", ".join(map(str, self.ports))
        return f"<{kind} {self.id} for {owner} on {self.node}: {numbers}{', lost' if self.lost else ''}>"

    # -- the steps

    def _begin(self) -> pb.AllocateRequest:
        """The request for the ports, under an id of its own. Raises RuntimeError where the lease is held."""
        if self._is_held:
            raise RuntimeError(f"lease {self.id} is held already: release it, or make another one")
        self._sent = elapsed()
        return self._request.request(uuid.uuid4().hex)

    def _granted(self, answer: pb.AllocateResponse) -> bool:
        """Whether the ports are still ours. The call may have been repeated for longer than the first answer lasts."""
        self._grant, self._renewal = Grant.of(answer.allocation), Renewal(self._request.ttl, self._sent)
        return not self._renewal.is_over(elapsed())

    def _lacking(self) -> HostportError | None:
        """What is wrong where a block is not whole: an allocator older than blocks gives one number."""
        for wanted, got in zip(self._request.ports, self.ports, strict=False):
            if got.count != wanted.count:
                why = f"the allocator gave {got.count} number in place of {wanted.count}"
                return UnavailableError(f"{why}: it is older than blocks of ports. Upgrade it")
        return None

    def _held(self) -> None:
        """The ports are ours."""
        self.lost, self._is_held = None, True

    def _ended(self, lost: LeaseLostError | None = None) -> None:
        """They are no more: given back, or lost."""
        self.lost, self._is_held = lost or self.lost, False

    def _rest(self) -> float:
        """Seconds until the next step."""
        return self._renewal.wait(elapsed())

    def _too_late(self) -> LeaseLostError | None:
        """Before a renewal is sent: an error when the lease is over already."""
        self._sent = elapsed()
        if self._renewal.is_over(self._sent):
            return LeaseLostError(f"lease {self.id} could not be renewed in time: {self._trouble}")
        return None

    @property
    def _renew(self) -> pb.RenewRequest:
        return pb.RenewRequest(id=self.id, ttl=duration(self._request.ttl))

    @property
    def _renew_timeout(self) -> float:
        """Seconds that the renewal may take."""
        return self._renewal.timeout(self._sent)

    def _renewed(self) -> None:
        """The call was answered."""
        self._renewal.succeeded(self._sent)

    def _failed(self, error: Exception) -> LeaseLostError | None:
        """The call was not; an error when the lease is lost by that."""
        if isinstance(error, NotFoundError):
            return LeaseLostError(f"lease {self.id} was ended: {error}", reason=error.reason)
        self._trouble = str(error)
        self._renewal.failed(elapsed(), random.random())  # noqa: S311 - no secret
        return None
