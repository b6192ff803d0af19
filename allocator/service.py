"""AllocatorService on grpc.aio: the calls that ask what there is. Those that change something are in `commands`.

Rules:

* Each call asks the guard first, and answers only while the allocator serves; GetStatus answers always.
* What looks at much does so in slices, and those who do it take turns: others are served between.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from msgspec.structs import replace

from allocator.access.guard import EVERYWHERE, Guard, Verb, unseen
from allocator.agents import Agents
from allocator.commands import CommandCalls, Context, answering, claim_id_of, sent
from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, State
from allocator.core.foreign import ForeignKind, is_disclosed
from allocator.core.holdings import foreign_holders, foreign_holdings
from allocator.core.index.ports import OrderedKeys
from allocator.core.ledger import Ledger
from allocator.core.ports import WILDCARD, PortKey
from allocator.core.reserved import ReservedNumbers
from allocator.core.watch.listening import is_heard
from allocator.decisions import Decisions
from allocator.engine import Engine
from allocator.held import foreign_ports, held_ports, merged, write_held
from allocator.metrics import AllocatorMetrics
from allocator.node_reports import node_report
from allocator.paging import page_of, token_of
from allocator.reports import Reports
from allocator.slices import TimeSlice, slices
from allocator.status import Status
from allocator.watchers import Change, Watcher, Watchers
from allocator.wire import STATES, parse_slot, to_allocation, to_listening, to_timestamp, write_foreign
from hostport.contract import Mistake, Reason
from hostport.v1 import allocator_pb2 as pb

log = logging.getLogger(__name__)

AT_ONCE = 128
"""Claims that are looked at before the clock is."""
MOST_TOGETHER = 256
"""Events in a message."""

W = pb.WatchAllocationsResponse


class AllocatorService(CommandCalls):
    """Those calls, and the ones of `commands`. See proto/hostport/v1/allocator.proto for what each promises."""

    def __init__(
        self,
        engine: Engine,
        metrics: AllocatorMetrics,
        reports: Reports,
        status: Status,
        guard: Guard,
        decisions: Decisions,
        *,
        agents: Agents,
        lease_namespace: str = "",
    ) -> None:
        super().__init__(
            engine, metrics, reports, status, guard, decisions, agents=agents, lease_namespace=lease_namespace
        )
        self._watchers = Watchers(engine.ledger)
        self._turn = asyncio.Lock()  # of those who look at much
        self._reserved = ReservedNumbers(engine.ledger.rules.reserved, engine.ledger.rules.reserved_for)

    async def GetAllocation(  # noqa: N802
        self, request: pb.GetAllocationRequest, context: Context
    ) -> pb.GetAllocationResponse:
        """One allocation, with the range and the number of candidates that it was chosen from."""
        async with answering(context):
            claim_id = claim_id_of(request.id)
            await self._guard.seeing(context, claim_id, self._engine.ledger.claims.get(claim_id))
            self._engine.check_serving()
            claim = self._engine.ledger.claims.get(claim_id)
            if claim is None:
                raise unseen(claim_id)
        return pb.GetAllocationResponse(
            allocation=self._allocation(claim),
            candidate_count=self._engine.ledger.claims.candidate_count(claim),
            range=pb.PortRange(min=claim.range[0], max=claim.range[1]) if claim.range else None,
        )

    async def ListAllocations(  # noqa: N802
        self, request: pb.ListAllocationsRequest, context: Context
    ) -> pb.ListAllocationsResponse:
        """A page of the allocations that a request selects, in the order of their ids."""
        async with answering(context):
            await self._guard.listing(context, request.namespace)
            self._engine.check_serving()
            size, after = page_of(request)
            found, token = await self._found(request, size, after)
        return pb.ListAllocationsResponse(allocations=found, next_page_token=token)

    async def _found(
        self, request: pb.ListAllocationsRequest, size: int, after: str
    ) -> tuple[list[pb.Allocation], str]:
        """A page and the token of the next. Claims that come and go meanwhile may be in it or not."""
        ledger, found, pace = self._engine.ledger, list[pb.Allocation](), TimeSlice(self._turn)
        within = _on_node(ledger, request.node) if request.node else None
        while ids := within.after(after, AT_ONCE) if within else ledger.claims.ids_after(after, AT_ONCE):
            for claim in filter(None, map(ledger.claims.get, ids)):
                if not _selects(request, claim):
                    continue
                if len(found) == size:
                    return found, token_of(found[-1].id)
                found.append(self._allocation(claim, request.namespace))
                await pace.rest()
            after = ids[-1]
            await pace.rest()
            self._engine.check_serving()
        return found, ""

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:  # noqa: N802
        """A page of the nodes that hold something or are known, in the order of their names."""
        async with answering(context):
            await self._guard.looking_everywhere(context, Verb.LIST)
            self._engine.check_serving()
            size, after = page_of(request)
            names = self._engine.ledger.nodes.names_after(after, size + 1)
            nodes, pace = list[pb.Node](), TimeSlice(self._turn)
            for name in names[:size]:
                nodes.append(self._node(name))
                await pace.rest()
        token = token_of(names[size - 1]) if len(names) > size else ""
        return pb.ListNodesResponse(nodes=nodes, next_page_token=token)

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:  # noqa: N802
        """A node with everything that is open or given there: by protocol, number, address and allocation."""
        async with answering(context):
            await self._guard.looking_everywhere(context, Verb.GET)
            self._engine.check_serving()
            name = self._known_name(request.name, "name")
            self._agents.look_again(name)
            response, pace = pb.GetNodeResponse(node=self._node(name)), TimeSlice(self._turn)
            await pace.rest()
            nodes = self._engine.ledger.nodes
            held = [foreign_ports(foreign_holdings(nodes, name, self._reserved))]
            await pace.rest()
            for claims in slices(self._claims_on(name), lambda claim: len(claim.ports)):
                held.append(held_ports(claims))
                await pace.rest()
            for each in merged(held):
                write_held(each, response.ports.add(), nodes.sockets, ahead=self._engine.clock.ahead)
                await pace.rest()
        return response

    async def WatchAllocations(  # type: ignore[override]  # noqa: N802 - the stubs know generators alone
        self, request: pb.WatchAllocationsRequest, context: Context
    ) -> None:
        """Every allocation that a request selects, then what changes, until the caller goes or falls behind."""
        async with answering(context):
            await self._guard.listing(context, request.namespace)
            self._engine.check_serving()
            with self._watchers.watch(partial(_is_watched, request)) as watcher:
                pace = TimeSlice(self._turn)
                await self._send_snapshot(watcher, context, pace, is_batched=request.batches)
                await _send(context, [W(type=W.TYPE_SYNCED)], pace, is_batched=False)
                while not watcher.is_behind:
                    changes = await watcher.changes()
                    await pace.begin()
                    events = []
                    for change in changes:
                        events.append(self._change(change))
                        if pace.is_over or len(events) == MOST_TOGETHER:
                            break
                    await _send(context, events, pace, is_batched=request.batches)
            raise _behind()

    async def _send_snapshot(self, watcher: Watcher, context: Context, pace: TimeSlice, *, is_batched: bool) -> None:
        events = list[W]()
        while (claims := watcher.snapshot()) is not None:
            for claim in claims:
                events.append(self._event(W.TYPE_SNAPSHOT, claim))
                if pace.is_over or len(events) == MOST_TOGETHER:
                    await _send(context, events, pace, is_batched=is_batched)
                    events.clear()
                    await pace.begin()
            await pace.rest()
        await _send(context, events, pace, is_batched=is_batched)

    def _change(self, change: Change) -> W:
        if change.is_end:
            return self._event(W.TYPE_RELEASED, replace(change.claim, state=State.RELEASED))
        return self._event(W.TYPE_CHANGED, change.claim)

    def _event(self, kind: W.Type.ValueType, claim: Claim) -> W:
        return W(type=kind, allocation=self._allocation(claim))

    async def ExplainPort(  # noqa: N802
        self, request: pb.ExplainPortRequest, context: Context
    ) -> pb.ExplainPortResponse:
        """Who holds a port on a node, with an allocation or without, since when, and whether somebody listens."""
        async with answering(context):
            await self._guard.looking_everywhere(context, Verb.GET)
            self._engine.check_serving()
            protocol, number = parse_slot(request)
            name, nodes = self._known_name(request.node, "node"), self._engine.ledger.nodes
            key = PortKey(WILDCARD, protocol, number)
        holders = nodes.holders(name, protocol, number)
        foreign = foreign_holders(nodes, name, key, self._reserved)
        has_process = any(each.kind is ForeignKind.PROCESS for each in foreign)
        response = pb.ExplainPortResponse(
            holders=[
                pb.ExplainPortResponse.Holder(
                    allocation=self._allocation(claim, EVERYWHERE),
                    since=to_timestamp(claim.settled_at or claim.created),
                )
                for claim in holders
            ],
            listening=to_listening(is_heard(name, key, holders, nodes.sockets, has_process=has_process)),
        )
        for holder in foreign:
            write_foreign(holder, response.foreign.add())
        return response

    async def ReportWarnings(  # noqa: N802
        self, request: pb.ReportWarningsRequest, context: Context
    ) -> pb.ReportWarningsResponse:
        """What a shim has warned the creators of Pods of becomes Events."""
        async with answering(context):
            await self._guard.reporting(context)
            self._engine.check_serving()
            self._reports.warned(request)
        return pb.ReportWarningsResponse()

    async def GetNodeAddress(  # noqa: N802
        self, request: pb.GetNodeAddressRequest, context: Context
    ) -> pb.GetNodeAddressResponse:
        """The address of a node that clients outside the cluster dial: its label's, its ExternalIP, its InternalIP.

        A Refused is the status of the answer: no address of the node is known.
        """
        async with answering(context):
            await self._guard.addressing(context)
            self._engine.check_serving()
            found = self._engine.ledger.nodes.address(request.node)
            if not found.address:
                message = f"no address of node {request.node[:64]} is known"
                raise Refused(Mistake(Reason.NODE_NOT_FOUND, "node", message))
        return pb.GetNodeAddressResponse(address=found.address, ipv4=found.ipv4, ipv6=found.ipv6)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:  # noqa: N802
        """How the allocator is. Answered always, also while it does not serve."""
        async with answering(context):
            await self._guard.looking_everywhere(context, Verb.GET)
        return self._status.response()

    def _known_name(self, name: str, field: str) -> NodeName:
        if not self._engine.ledger.nodes.has(name):
            message = f"no node {name[:64]}. ListNodes tells the names"
            raise Refused(Mistake(Reason.NODE_NOT_FOUND, field, message))
        return NodeName(name)

    def _allocation(self, claim: Claim, asker: str | None = None) -> pb.Allocation:
        """A claim as a caller sees it. asker: the namespace of which it may know; None: that of the claim's owner."""
        engine = self._engine
        allocation = to_allocation(
            claim,
            ahead=engine.clock.ahead,
            unplaceable=engine.ledger.claims.is_unplaceable(claim),
            sockets=engine.ledger.nodes.sockets,
        )
        services = engine.ledger.nodes.services
        for port, into in zip(claim.ports, allocation.ports, strict=True) if services.holders else ():
            if held := services.holder(port.key):
                knows = claim.owner.namespace if asker is None else asker
                is_known = not knows or is_disclosed(
                    held[1], asker=knows, discloses=engine.ledger.rules.discloses_holders
                )
                write_foreign(held[1], into.conflict, is_disclosed=is_known)
        return allocation

    def _claims_on(self, name: NodeName) -> list[Claim]:
        ledger = self._engine.ledger
        return list(filter(None, map(ledger.claims.get, ledger.nodes.ids_on(name))))

    def _node(self, name: NodeName) -> pb.Node:
        claims, numbers = self._engine.ledger.nodes.counts_on(name)
        return pb.Node(
            name=name,
            known=self._engine.ledger.nodes.is_known(name),
            allocation_count=claims,
            held_port_count=numbers,
            report=node_report(self._engine.ledger.nodes, name, ahead=self._engine.clock.ahead),
            address=self._engine.ledger.nodes.address(name).address,
        )


# -- watches


async def _send(context: Context, events: list[W], pace: TimeSlice, *, is_batched: bool) -> None:
    """Sends events, in one message where that is batched.

    Many messages one after the other keep the loop and gRPC's own thread busy without a long turn: others rest between.

    Raises:
        Refused: the watcher takes nothing for so long that its queue only grows.

    """
    if is_batched and events:
        first, *further = events
        first.further.extend(further)
        events = [first]
    for event in events:
        if not await sent(context, event):
            raise _behind()
        await pace.rest()


def _behind() -> Refused:
    message = "this watcher did not read its events in time, so that some are missing. Watch again"
    return Refused(Mistake(Reason.WATCH_BEHIND, "", message))


def _on_node(ledger: Ledger, name: str) -> OrderedKeys[ClaimId]:
    """The claims on a node, in the order of ids."""
    found: OrderedKeys[ClaimId] = OrderedKeys()
    for claim_id in ledger.nodes.ids_on(NodeName(name)):
        found.add(claim_id)
    return found


def _is_watched(request: pb.WatchAllocationsRequest, claim: Claim) -> bool:
    return request.node in ("", claim.node) and request.namespace in ("", claim.owner.namespace)


def _selects(request: pb.ListAllocationsRequest, claim: Claim) -> bool:
    return (
        request.node in ("", claim.node)
        and request.namespace in ("", claim.owner.namespace)
        and request.owner_name in ("", claim.owner.name)
        and request.state in (pb.STATE_UNSPECIFIED, STATES[claim.state])
    )
