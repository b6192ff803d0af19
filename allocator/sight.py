"""What is waited for before an ask is decided, and looked up before it is denied: the view of the cluster may lag.

Rules:

* A controller that asks again and again is to show its first Pod before it gets more, and so are the Pods of a
  namespace whose share is used up by Pods that nobody has seen. Each waits `SIGHT_SECONDS` at most.
* Of those who wait for the same thing one looks whether it is there, and the others wait behind it, in the order in
  which they came. If each looked every few milliseconds, that would cost more than what is waited for.
* Nobody is denied for a port whose holder may be gone: the holders are looked up first, Pods and Services, of each kind
  `MOST_LOOKS`. Where they cannot be, and the view is older than `STALE_SECONDS`, the caller is told to ask again. The
  agents of nodes look again as well where processes are in the way, and those that are connected are waited for,
  `LOOK_SECONDS`. What an agent said before stands if it does not answer.
* All of them look side by side, and the ask is decided again if anything changed meanwhile, whoever told of it.
* Who is in the way beyond `MOST_LOOKS` is taken to be there, as the watch told. That is the case where a range is full
  of Services. The denial counts what Services hold of it, and may be wrong for as long as their watch hangs and nobody
  has noticed. To answer 503 instead would hide the true reason from all whose range is full, and help few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from allocator.cluster.contract import PodRef, Watch
from allocator.core.asks import Ask, NotServedError, Refused
from allocator.core.candidates import NodeName
from allocator.core.ledger import Ledger
from hostport.contract import Reason

MOST_LOOKS = 16  # holders that are looked up before a denial
STALE_SECONDS = 2.0  # older than that, a view alone is no reason to deny
RECENT_SECONDS = 2.0  # a report of a node that is not older is taken as it is
LOOK_SECONDS = 0.5  # an agent answers within a third of a second
SIGHT_SECONDS = 2.0  # less than half of what the API server gives a webhook
UNSEEN_SECONDS = 10.0  # a proof takes up to five in a quiet cluster: a view that is older accuses nobody
POLL_SECONDS = 0.02


class WaitingLines:
    """Those who wait, by what they wait for. A line that nobody stands in is forgotten."""

    def __init__(self) -> None:
        self._heads: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    async def wait(self, key: Hashable, must_wait: Callable[[], bool], until: float) -> None:
        """Returns when it need not wait any more, in order of arrival, or at a time of the event loop's clock.

        Whoever need not wait when it comes stands in no line: what others wait for may be no affair of its own.
        """
        if not must_wait():
            return
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = asyncio.Lock()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until), head:
                while must_wait():  # noqa: ASYNC110 - one of many looks, and not for long
                    await asyncio.sleep(POLL_SECONDS)


class Sight:
    """See the module."""

    def __init__(self, ledger: Ledger, report_now: Callable[[NodeName], bool | None]) -> None:
        """report_now: has the agent of a node look, and gives whether it is connected."""
        self._ledger = ledger
        self._report_now = report_now
        self._lines = WaitingLines()

    async def wait(self, watch: Watch, ask: Ask, is_wanted: Callable[[], bool]) -> None:
        """Waits for the first Pod of the owner's controller, and for any of a namespace without room, as far as due.

        Raises:
            NotServedError: the namespace has no room, and the view is old: its Pods may be there.

        """
        ledger, owner = self._ledger, ask.owner
        until = asyncio.get_running_loop().time() + SIGHT_SECONDS
        line = owner.namespace, owner.controller_uid
        await self._lines.wait(line, lambda: is_wanted() and ledger.limits.awaits_sight(ask), until)
        await self._lines.wait(owner.namespace, lambda: is_wanted() and ledger.limits.is_crowded(ask), until)
        if watch.lag() > UNSEEN_SECONDS and ledger.limits.is_crowded(ask):
            message = (
                f"many Pods of namespace {owner.namespace} were admitted and not seen, but the view of the cluster"
            )
            raise NotServedError(Reason.VIEW_STALE, f"{message} is {watch.lag():.0f} s old: retry")

    async def looked_again(self, watch: Watch | None, ask: Ask, refused: Refused) -> bool:
        """Before a denial for want of a port: whether those who hold it were looked up, so that asking again is fair.

        It is fair, too, where the cluster changed while somebody was waited for.

        Raises:
            NotServedError: they could not be, and the view is old: a denial might be wrong.

        """
        if refused.mistakes[0].reason not in {Reason.PORT_CONFLICT, Reason.RANGE_EXHAUSTED, Reason.HELD_BY_SERVICE}:
            return False
        before = self._ledger.nodes.changes
        looks = self._looks(watch, ask) if watch is not None else []
        has_any_agent, *answers = await asyncio.gather(self._agents_looked(ask), *looks)
        if watch is not None and not all(answers) and watch.lag() > STALE_SECONDS:
            message = f"{refused}. But the view of the cluster is {watch.lag():.0f} s old: retry"
            raise NotServedError(Reason.VIEW_STALE, message)
        return has_any_agent or any(answers) or self._ledger.nodes.changes != before

    def _looks(self, watch: Watch, ask: Ask) -> list[Coroutine[Any, Any, bool]]:
        """What is looked up at the API server for an ask; each says whether that succeeded."""
        claims, asker, looks = self._ledger.claims, ask.owner.namespace, []
        if services := claims.services_in_the_way(ask, MOST_LOOKS):
            looks.append(watch.look_up_services(services, asker))
        if doubtful := claims.pods_in_the_way(ask, MOST_LOOKS):
            refs = [PodRef(c.owner.namespace, c.owner.name, c.pod_uid) for c in doubtful if c.pod_uid is not None]
            looks.append(watch.look(refs, asker))
        return looks

    async def _agents_looked(self, ask: Ask) -> bool:
        """Whether any agent of a node has looked anew where a process may have what an ask wants."""
        sockets = self._ledger.nodes.sockets
        names = self._ledger.claims.processes_in_the_way(ask, MOST_LOOKS) if sockets.open_at else ()
        waiting = [name for name in names if sockets.age(name) > RECENT_SECONDS and self._report_now(name)]
        now = asyncio.get_running_loop().time
        until = now() + LOOK_SECONDS
        left = waiting
        while left and now() < until:
            await asyncio.sleep(POLL_SECONDS)
            left = [name for name in left if sockets.age(name) > RECENT_SECONDS]
        return len(left) < len(waiting)
