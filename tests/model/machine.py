"""What may happen, in any order, and what must hold after each step.

`Common` has the asks, the Pods' and the allocator's lives, the watch and the clocks. `AnyPods` adds everything that the
allocator cannot rule out; `OnePort` is the world in which it promises more. The books kept here are the callers': what
they were answered, and what they did with it.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from itertools import combinations, count
from typing import Any, ClassVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from allocator.clock import Clock
from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask, NotServedError, PortAsk, Refused, WhenFull
from allocator.core.candidates import Node, NodeName, Taint
from allocator.core.claims import POD, Claim, ClaimId, Owner, PodUid, State
from allocator.core.index.candidate_sets import HeldNumbers
from allocator.core.index.ports import PortIndex
from allocator.core.ledger import Ledger
from allocator.core.place.policies import DYNAMIC, POLICIES, STATIC, Policy
from allocator.core.ports import Protocol
from allocator.core.sockets import NodeFacts, SocketChange
from testing.observing import parse_constraints

from .process import Disk, Process
from .reality import (
    CREATE_SECONDS,
    EVERYWHERE,
    Key,
    Real,
    Reality,
    RealNode,
    RealPod,
    RealPort,
    RealService,
    Where,
    any_collide,
)

LEASE_SECONDS = 60.0
EVERYTHING = 1 << 30
LAST_NUMBER = 65535
LAST_USED = 8191  # no ask and no Pod here has a number beyond it
MOSTLY = st.sampled_from([True, True, True, False])
SELDOM = st.sampled_from([False, False, True])


def _short(port: PortAsk | RealPort) -> str:
    if isinstance(port, RealPort):
        return f"{port.container}:{port.number}/{port.protocol}@{port.ip}"
    return f"{port.container}:{port.container_port}/{port.protocol.value}={port.host_port}@{port.host_ip}"


@dataclass(frozen=True, repr=False)
class Template:
    """A Pod as its owner writes it."""

    namespace: str
    name: str  # empty: generateName
    ports: tuple[PortAsk, ...]
    controller: str = ""
    policy: Policy = DYNAMIC
    low: int = 7000
    high: int = 7002
    index: int | None = None
    where: Where = EVERYWHERE
    priority: int = 0
    may_preempt: bool = False
    when_full: WhenFull | None = None
    can_steer: bool = False

    def __repr__(self) -> str:
        ports = " ".join(map(_short, self.ports))
        index = "" if self.index is None else f"#{self.index}"
        pending = "pending" if self.when_full else ""
        preempts = f"p{self.priority}{'!' if self.may_preempt else ''}"
        where = {key: value for key, value in vars(self.where).items() if value}
        what = f"{self.policy.name}{index} {self.low}-{self.high}"
        return f"<{self.namespace}/{self.name or 'web-'} {what} {ports} {where or ''} {preempts} {pending}>"

    def ask(self) -> Ask:
        return Ask(
            owner=Owner(namespace=self.namespace, name=self.name, generate_name="web-", controller_uid=self.controller),
            ports=self.ports,
            policy=self.policy,
            low=self.low,
            high=self.high,
            stride=2,
            index=self.index,
            constraints=parse_constraints(self.where.spec()),
            priority=self.priority,
            may_preempt=self.may_preempt,
            when_full=self.when_full,
            can_steer=self.can_steer,
        )


@dataclass(repr=False, eq=False)
class Request:
    """A call of Allocate, and when it was granted what."""

    id: str
    ask: Ask
    order: int = 0  # of the decision, among all
    nodes: dict[str, RealNode] = field(default_factory=dict)  # as the allocator knew them then
    node_ports: frozenset[tuple[str, int]] = frozenset()  # those of Services then
    at: float = 0.0
    template: Template | None = None  # none: a lease
    again: Create | None = None  # a reinvocation of this one

    def __repr__(self) -> str:
        return f"<{self.id} {self.template or 'lease'}>"


@dataclass(frozen=True, repr=False)
class Create:
    """A create whose webhooks have answered: it may still be stored, or refused."""

    request: Request
    template: Template
    claim: str
    ports: tuple[RealPort, ...]
    where: Where = EVERYWHERE  # where the Pod may run, with the nodes that it is kept off

    def __repr__(self) -> str:
        return f"<{self.request.id} claim {self.claim[-3:]} {' '.join(map(_short, self.ports))} of {self.template}>"

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(port.key for port in self.ports)


@dataclass(frozen=True)
class Lease:
    """A lease as its owner knows it."""

    request: Request
    id: str
    node: str
    keys: frozenset[Key]
    until: float


@dataclass
class Clocks:
    wall: float = 1_000_000.0
    steady: float = 500.0


class SteadyLoop(asyncio.SelectorEventLoop):
    """Its timers go by the test's clock."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        super().__init__()

    def time(self) -> float:
        return self._clocks.steady


def ports_of(answer: dict[str, Any]) -> tuple[RealPort, ...]:
    return tuple(RealPort(*port) for port in answer["ports"])


def keys_of(claim: Claim) -> frozenset[Key]:
    return frozenset((key.ip, key.protocol.value, number) for key in claim.keys for number in key.numbers)


class Common(RuleBasedStateMachine):
    first_nodes: ClassVar[tuple[RealNode, ...]] = ()
    templates: ClassVar[st.SearchStrategy[Template]]
    has_sidecars: ClassVar[bool] = True
    is_binary: ClassVar[bool] = False
    """Whether the API server speaks protobuf."""

    def __init__(self) -> None:
        super().__init__()
        self.clocks = Clocks()
        self.loop = SteadyLoop(self.clocks)
        self.reality = Reality(is_binary=self.is_binary)
        self.disk = Disk()
        self.ids = count(1)
        self.counter = 0
        self.last: Request | None = None
        self.open: list[tuple[Request, asyncio.Task[bytes]]] = []
        self.creates: list[Create] = []
        self.leases: dict[str, Lease] = {}
        self.admissions: dict[str, Request] = {}  # by claim
        self.given_back: set[str] = set()  # claims of Pods that somebody released
        self.answers: list[tuple[Request, ClaimId, bytes]] = []
        self.sockets: dict[str, set[Key]] = {}  # what programs have open, by node
        for node in self.first_nodes:
            self.reality.put_node(node)
        self.process = self.started()

    def started(self) -> Process:
        clocks = self.clocks
        clock = Clock(wall=lambda: clocks.wall, steady=lambda: clocks.steady)
        rules = LedgerRules(reserved=1 << 7003)
        process = Process(self.reality, self.disk, clock=clock, rules=rules, ids=self.ids, loop=self.loop)
        process.start()
        return process

    @property
    def ledger(self) -> Ledger:
        return self.process.ledger

    def fresh(self) -> int:
        self.counter += 1
        return self.counter

    # -- asks

    def ask(self, ask: Ask, template: Template | None, again: Create | None = None) -> None:
        request = Request(f"r{self.fresh()}", ask, template=template, again=again)
        note(f"> {request} asks with {' '.join(map(_short, ask.ports))}")
        before, looks = self.visible(), self.process.client.asked

        def decided() -> None:
            request.order, request.at = self.fresh(), self.clocks.steady
            request.nodes, request.node_ports = dict(self.process.known_nodes), self.reality.node_ports

        task = self.process.allocate(ask, request.id, decided)
        is_refused = task.done() and task.exception() is not None
        if is_refused and again is None and self.process.client.asked == looks:
            assert self.visible() == before, "a refusal changes nothing"
        self.open.append((request, task))
        self.last = request
        self.collect()

    def collect(self) -> None:
        """Callers take note of what they are answered."""
        waiting = []
        for request, task in self.open:
            if not task.done():
                waiting.append((request, task))
            elif task.exception() is None:
                self.answered(request, task.result())
            elif isinstance(task.exception(), Refused | NotServedError):
                self.denied(request)
            else:
                task.result()
        self.open = waiting

    def answered(self, request: Request, answer: bytes) -> None:
        told = json.loads(answer)
        note(f"> {request.id} got {told}")
        assert not {(port.protocol, port.number) for port in ports_of(told)} & request.node_ports, "a Service's number"
        self.answers.append((request, ClaimId(told["id"]), answer))
        if request.template is None:
            keys = frozenset(port.key for port in ports_of(told))
            until = request.at + LEASE_SECONDS
            assert until > self.clocks.steady
            self.leases[told["id"]] = Lease(request, told["id"], told["node"], keys, until)
            return
        assert request.template is not None
        before = request.template.where if request.again is None else request.again.where
        where = replace(before, off=before.off | set(told["avoid"]))
        assert request.ask.can_steer or where == before, "kept off nodes, and nobody can do so"
        if request.again is not None:
            if request.again not in self.creates:
                return  # the API server has given up on it
            self.creates.remove(request.again)
            began = request.again.request.at
            if told["id"] == request.again.claim:
                request = request.again.request
            else:
                request.at = began
        self.admissions[told["id"]] = request
        assert request.template is not None
        self.creates.append(Create(request, request.template, told["id"], ports_of(told), where))

    def denied(self, request: Request) -> None:
        """A create that is denied in its second round was denied."""
        note(f"> {request.id} was denied")
        if request.again is not None and request.again in self.creates:
            self.creates.remove(request.again)
            self.given_back.add(request.again.claim)

    @rule(
        data=st.data(),
        fate=st.sampled_from(
            ["scheduled"] * 3 + ["stored"] * 3 + ["answered", "answered", "decided", "lease", "lease", "lease"]
        ),
        is_reachable=st.booleans(),
        is_told=MOSTLY,
    )
    def admit(self, data: st.DataObject, fate: str, is_reachable: bool, is_told: bool) -> None:
        """A Pod asks, and comes as far as that; or a service asks for a lease."""
        template = data.draw(self.templates)
        self.process.client.is_reachable = is_reachable
        if fate == "lease":
            owner = Owner(kind="Service", namespace="infra", name="relay")
            self.ask(structs.replace(template.ask(), owner=owner, ttl=LEASE_SECONDS), None)
        else:
            self.ask(template.ask(), template)
        if fate == "decided":
            return
        self.commit()
        create = next((create for create in self.creates if create.request is self.last), None)
        if create is not None and fate != "answered":
            pod = self.stored(create)
            if pod is not None and fate == "scheduled":
                self.scheduled(pod, data)
        self.tell(EVERYTHING, is_told=is_told)

    def known_answers(self) -> list[tuple[Request, ClaimId, bytes]]:
        """Those that the allocator has not forgotten."""
        return [known for known in self.answers if known[0].id in self.process.engine._answers.kept]

    @precondition(lambda self: self.known_answers())
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A retry gets the first answer, byte by byte, as long as the claim lives; then it is told that it has ended."""
        request, claim_id, answer = data.draw(st.sampled_from(self.known_answers()))
        claim = self.ledger.claims.get(claim_id)
        is_over = claim is None or claim_id in self.process.engine.changes.ending
        is_over |= claim is not None and claim.owner.kind != POD and (claim.expires or 0.0) <= self.process.now()
        task = self.process.allocate(request.ask, request.id)
        assert task.done(), "nothing has to be made durable"
        if is_over:
            assert "has ended" in str(task.exception())
        else:
            assert task.result() == answer

    @precondition(lambda self: self.process.journal.queue)
    @rule(most=st.sampled_from([1, 2, EVERYTHING]), is_full=SELDOM)
    def write(self, most: int, is_full: bool) -> None:
        """Or the disk is full, for the oldest submission."""
        if is_full:
            self.process.inside(self.process.journal.fail)
            self.collect()
        else:
            self.commit(most)

    def commit(self, most: int = EVERYTHING) -> None:
        self.process.commit(most)
        self.collect()

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), is_renewed=st.booleans())
    def renew_or_give_back_a_lease(self, data: st.DataObject, is_renewed: bool) -> None:
        lease = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
        if not is_renewed:
            del self.leases[lease.id]
            self.release(lease.id)
            return
        call = self.process.engine.renew(ClaimId(lease.id), LEASE_SECONDS)
        task = self.process.inside(lambda: self.loop.create_task(_quiet(call)))
        self.commit()
        assert task.done()
        if task.result() is not None:
            self.leases[lease.id] = replace(lease, until=self.clocks.steady + LEASE_SECONDS)

    def release(self, claim: str) -> None:
        self.process.inside(lambda: self.loop.create_task(_quiet(self.process.engine.release(ClaimId(claim)))))

    # -- creates

    @precondition(lambda self: self.creates)
    @rule(data=st.data(), is_refused=st.sampled_from([False, False, True]), is_told=MOSTLY)
    def store(self, data: st.DataObject, is_refused: bool, is_told: bool) -> None:
        """A create that was admitted succeeds; or a quota, Pod Security or a later webhook refuses it."""
        create = data.draw(st.sampled_from(self.creates))
        if is_refused:
            self.creates.remove(create)
        else:
            self.stored(create)
        self.tell(EVERYTHING, is_told=is_told)

    def stored(self, create: Create) -> RealPod | None:
        """The API server stores an admitted Pod, unless one of its name exists."""
        self.creates.remove(create)
        number, template = self.fresh(), create.template
        name = template.name or f"web-{number}x"
        if self.reality.find(template.namespace, name) is not None:
            return None
        pod = RealPod(
            uid=f"u{number}",
            namespace=template.namespace,
            name=name,
            ports=create.ports,
            where=create.where,
            generate_name="" if template.name else "web-",
            controller=template.controller,
            claim=create.claim,
            carries=create.claim,
            node=template.where.node_name,
            priority=template.priority,
            may_preempt=template.may_preempt,
        )
        note(f"> {pod.uid} {create}")
        pod = self.reality.admit_by_kubelet(pod)
        self.reality.store(pod)
        return pod

    @precondition(lambda self: self.creates)
    @rule(data=st.data(), has_sidecar=SELDOM)
    def reinvoke(self, data: st.DataObject, has_sidecar: bool) -> None:
        """Another webhook changed the Pod: ours is called again, before the Pod is stored."""
        create = data.draw(st.sampled_from(self.creates))
        ports = [
            PortAsk(
                container=port.container,
                protocol=Protocol(port.protocol),
                container_port=port.number,
                host_port=port.number,
                host_ip=port.ip,
                count=port.count,
            )
            for port in create.ports
            if port.count  # the shim asks for a block as for one port
        ]
        if has_sidecar and self.has_sidecars:
            ports.insert(0, PortAsk(container="mesh", container_port=7002, host_port=7002))
        ask = structs.replace(
            create.template.ask(),
            ports=tuple(ports),
            host_network=True,
            carried_id=create.claim,
            constraints=parse_constraints(create.where.spec()),
        )
        self.ask(ask, create.template, create)
        self.commit()

    # -- Pods

    def pick(self, data: st.DataObject, pods: list[RealPod]) -> RealPod:
        pod = data.draw(st.sampled_from(sorted(pods, key=lambda pod: int(pod.uid[1:]))))
        note(f"> {pod.uid}")
        return pod

    def waiting(self) -> list[RealPod]:
        return [pod for pod in self.reality.pods.values() if not pod.node and not pod.is_finished]

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), is_told=MOSTLY)
    def schedule(self, data: st.DataObject, is_told: bool) -> None:
        self.scheduled(self.pick(data, self.waiting()), data)
        self.tell(EVERYTHING, is_told=is_told)

    def scheduled(self, pod: RealPod, data: st.DataObject) -> None:
        choices = [] if pod.node or pod.is_finished or pod.is_terminating else self.reality.choices(pod)
        if choices:
            node = data.draw(st.sampled_from(choices))
            note(f"> {pod.uid} to {node}")
            self.reality.store(replace(pod, node=node))

    @precondition(lambda self: self.reality.pods)
    @rule(data=st.data(), how=st.sampled_from(["terminates", "terminates", "is gone", "finishes"]), is_told=MOSTLY)
    def end(self, data: st.DataObject, how: str, is_told: bool) -> None:
        """A terminating Pod holds its ports until it is gone; a finished one is there and holds none."""
        pod = self.pick(data, list(self.reality.pods.values()))
        if how == "is gone":
            self.reality.delete(pod.uid)
        elif how == "terminates" and not pod.is_terminating:
            self.reality.store(replace(pod, is_terminating=True))
        elif how == "finishes" and pod.node and not pod.is_finished:
            self.reality.store(replace(pod, is_finished=True))
        self.tell(EVERYTHING, is_told=is_told)

    # -- the watch

    def tell(
        self,
        most: int,
        *,
        is_told: bool = True,
        in_order: bool = True,
        twice: bool = False,
        data: st.DataObject | None = None,
    ) -> None:
        """Events of Pods reach the allocator; out of order: those of one Pod before those of others."""
        events = self.reality.pod_events
        if self.process.is_listing or not events or not is_told:
            return
        if not in_order and data is not None:
            # A copy of an annotation is made after its original was seen.
            subjects = sorted({event.subject for event in events if not self.is_copy(event.seen)})
            subject = data.draw(st.sampled_from(subjects)) if subjects else ""
            events = [event for event in events if event.subject == subject]
        if events:
            self.process.tell_pods(events[:most], twice=twice)

    @staticmethod
    def is_copy(pod: Real) -> bool:
        return isinstance(pod, RealPod) and bool(pod.carries) and pod.carries != pod.claim

    @precondition(lambda self: self.reality.pod_events and not self.process.is_listing)
    @rule(most=st.sampled_from([1, 2, 3, EVERYTHING]), in_order=st.booleans(), twice=st.booleans(), data=st.data())
    def tell_pods(self, most: int, in_order: bool, twice: bool, data: st.DataObject) -> None:
        self.tell(most, in_order=in_order, twice=twice, data=data)

    @precondition(lambda self: self.reality.node_events)
    @rule(most=st.sampled_from([1, EVERYTHING]))
    def tell_nodes(self, most: int) -> None:
        self.process.tell_nodes(most)

    @precondition(lambda self: self.process.is_listing)
    @rule(most=st.sampled_from([1, 2, EVERYTHING, EVERYTHING]))
    def list_a_page(self, most: int) -> None:
        self.process.go_on_listing(most)

    @rule(
        what=st.sampled_from(["pods", "nodes", "clock", "crash"]),
        last=st.sets(st.integers(1, 30), max_size=4),
        seconds=st.sampled_from([3600.0, 46.0, -3600.0]),
        written=st.sampled_from([0, 1, EVERYTHING]),
    )
    def trouble(self, what: str, last: set[int], seconds: float, written: int) -> None:
        """The history of a watch is forgotten (410), so that a list begins; the wall clock is set; a crash."""
        match what:
            case "pods":
                self.process.begin_list([f"u{number}" for number in last])
            case "nodes":
                self.process.list_nodes()
            case "clock":
                self.clocks.wall += seconds
                self.pass_time(0.0, is_proven=True, is_written=True)
            case _:
                self.crash(written)

    def crash(self, written: int) -> None:
        """The process is killed and starts again, with what was written by then."""
        self.process.die(written)
        self.open.clear()
        self.process = self.started()
        for node, opened in self.sockets.items():  # the agents connect again, and tell all that there is
            self.process.report(node, opened=sorted(opened))

    # -- time

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, 15.0, 46.0]), is_proven=st.booleans(), is_written=MOSTLY)
    def pass_time(self, seconds: float, is_proven: bool, is_written: bool) -> None:
        self.clocks.wall += seconds
        while seconds > 0:  # the allocator reads its clock with each tick
            self.clocks.steady += min(seconds, 1.0)
            seconds -= 1.0
            self.process.now()
        now = self.clocks.steady
        self.creates = [create for create in self.creates if create.request.at + CREATE_SECONDS >= now]
        self.leases = {lease.id: lease for lease in self.leases.values() if lease.until > now}
        if is_proven:
            self.process.begin_proof()
        self.process.tick()
        if is_written:
            self.commit()

    # -- what must hold

    def visible(self) -> dict[ClaimId, tuple[State, frozenset[Key]]]:
        """Plans may move, nothing else."""
        return {claim.id: (claim.state, keys_of(claim)) for claim in self.ledger.claims}

    def is_given_back(self, claim: str) -> bool:
        return claim in self.given_back

    @invariant()
    def whoever_lives_is_held(self) -> None:
        """Pods that we admitted, creates that may still succeed, leases: the ledger has them all, with their ports."""
        for create in self.creates:
            claim = self.ledger.claims.get(ClaimId(create.claim))
            assert self.is_given_back(create.claim) or (claim and keys_of(claim) == create.keys), create
        for pod in self.reality.pods.values():
            if pod.is_finished or not pod.ports or self.is_given_back(pod.claim):
                continue
            known = self.ledger._store.by_pod.get(PodUid(pod.uid), ClaimId(pod.claim))
            claim = self.ledger.claims.get(known)
            assert claim or not (pod.claim or pod.uid in self.process.told), pod
            assert claim is None or keys_of(claim) == pod.keys, (pod, claim)
        for lease in self.leases.values():
            claim = self.ledger.claims.get(ClaimId(lease.id))
            assert claim, lease
            assert (keys_of(claim), claim.node) == (lease.keys, lease.node)

    @invariant()
    def no_lease_meets_another_or_a_pod_that_we_admitted(self) -> None:
        for lease, other in combinations(self.leases.values(), 2):
            assert lease.node != other.node or not any_collide(lease.keys, other.keys), (lease, other)
        for lease in self.leases.values():
            for pod in self.reality.on(lease.node):
                if any_collide(lease.keys, pod.keys) and self.was_admitted(pod):
                    admission = self.admissions[pod.claim]
                    later = max(admission, lease.request, key=lambda request: request.order)
                    # A node that became a candidate only afterwards is a known limit.
                    node = later.nodes.get(lease.node)
                    assert not pod.where.node_name, (lease, pod)
                    assert node is None or not pod.where.admits(node), (lease, pod)

    @invariant()
    def nobody_stands_where_it_is_kept_off(self) -> None:
        """Neither the plan of a Pod that is on its way, nor the Pod."""
        for create in self.creates:
            claim = self.ledger.claims.get(ClaimId(create.claim))
            assert claim is None or claim.node not in create.where.off, (create, claim)
        for pod in self.reality.pods.values():
            assert pod.node not in pod.where.off, pod

    def was_admitted(self, pod: RealPod) -> bool:
        return pod.claim in self.admissions and not self.is_given_back(pod.claim)

    @invariant()
    def no_two_pods_that_we_admitted_conflict(self) -> None:
        for pod, other in combinations(self.reality.pods.values(), 2):
            if pod.node and pod.node == other.node and not (pod.is_finished or other.is_finished):
                assert not any_collide(pod.keys, other.keys), (pod, other)

    @invariant()
    def no_two_claims_stand_on_one_port(self) -> None:
        """But for namesakes, plans behind holders that will go, and what Pods did that we had no say in."""
        for one, other in combinations(self.ledger._store.claims.values(), 2):
            if one.node is None or one.node != other.node or not any_collide(keys_of(one), keys_of(other)):
                continue
            if one.owner.full_name is not None and one.owner.full_name == other.owner.full_name:
                continue
            if one.is_settled and other.is_settled:
                if State.LEASED in {one.state, other.state}:
                    continue  # `no_lease_meets_another_or_a_pod_that_we_admitted` judges it, who knows when each was given
                assert one.unmanaged or other.unmanaged or not (self.stands(one) and self.stands(other)), (one, other)
            else:
                assert one.is_settled or other.is_settled, (one, other)
                holder, plan = (one, other) if one.is_settled else (other, one)
                may_go = holder.is_terminating or (plan.may_preempt and holder.priority < plan.priority)
                assert may_go, (one, other)
                assert holder.owner.is_pod, (one, other)

    def stands(self, claim: Claim) -> bool:
        """Whether it really is where the ledger has it: the news of its end may be on its way."""
        if claim.state is State.LEASED:
            return claim.id in self.leases
        pod = self.reality.pods.get(claim.pod_uid or "")
        return pod is not None and pod.node == claim.node and not pod.is_finished

    @invariant()
    def every_plan_stands_on_a_candidate(self) -> None:
        for claim in self.ledger.claims:
            if claim.node is not None and not claim.is_settled:
                scope = self.ledger._store.sets.of(claim.constraints)
                assert self.ledger._store.nodes.contains(scope.nodes, claim.node), claim

    def teardown(self) -> None:
        try:
            self.nothing_leaks()
        finally:
            self.process.die(written=0)
            self.loop.close()

    def nothing_leaks(self) -> None:
        """When everything was told and all time is up, the ledger has what there is, and so has the journal."""
        if self.process.is_listing:
            self.process.go_on_listing(EVERYTHING)
        self.process.tell_nodes(EVERYTHING)
        self.process.tell_pods(list(self.reality.pod_events))
        self.commit()
        # What the journal did not learn of the clock before a crash is given back to leases.
        ends = [claim.expires for claim in self.ledger.claims if claim.expires is not None]
        self.pass_time(
            max([end - self.process.now() for end in ends], default=0.0) + 1.0, is_proven=True, is_written=True
        )
        for _ in range(3):
            self.process.tick()
            self.commit()
        real = {
            (pod.uid, pod.node or None, pod.keys)
            for pod in self.reality.pods.values()
            if pod.ports and not pod.is_finished
        }
        ours = {(c.pod_uid or c.id, c.node if c.is_settled else None, keys_of(c)) for c in self.ledger.claims}
        assert ours == real
        self.the_index_is_what_the_claims_say(LAST_NUMBER)
        kept = {claim.id: claim for claim in self.ledger.claims if not claim.unmanaged}
        differs = [(claim, kept.get(i)) for i, claim in self.disk.read().items() if claim != kept.get(i)]
        assert not differs, differs
        assert self.disk.claims.keys() == kept.keys()

    def the_index_is_what_the_claims_say(self, last: int) -> None:
        """With the counts of all numbers up to that one: a fresh index counts each block anew, which takes long."""
        fresh, ours = PortIndex(self.ledger._store.claims), self.ledger._store.ports
        for node in self.process.known_nodes.values():
            taints = (Taint(key=node.taint),) if node.taint else ()
            fresh.sets.put_node(Node(name=NodeName(node.name), labels={"disk": node.disk}, taints=taints))
        claims = list(self.ledger._store.claims.values())  # pending ones too
        for claim in claims:
            fresh.stand(claim, is_settled=claim.is_settled)
        for name in ours.sockets.reporting():
            opened = list(ours.sockets.of(name) or ())
            fresh.sockets.take(SocketChange(node=name, opened=opened, facts=NodeFacts()), 0.0)
        asked = {claim.constraints for claim in claims} | {parse_constraints(Where().spec())}
        for constraints in asked:
            for protocol in (Protocol.TCP, Protocol.UDP):
                for question in (HeldNumbers.taken, HeldNumbers.loads_and_stuck, HeldNumbers.full, HeldNumbers.stuck):
                    answers = [question(o.numbers, o.sets.of(constraints), protocol, 1, last) for o in (ours, fresh)]
                    assert _stripped(answers[0]) == _stripped(answers[1]), (question, constraints, protocol)
        assert {name for name in ours.nodes.names if ours.port_map(name)} <= set(fresh.nodes.names)
        for name in fresh.nodes.names:
            assert ours.port_map(name) == fresh.port_map(name)


def _stripped(answer: int | tuple[list[int], int]) -> int | tuple[list[int], int]:
    """A count without planes that have become empty."""
    if isinstance(answer, int):
        return answer
    planes, stuck = answer
    while planes and not planes[-1]:
        planes.pop()
    return planes, stuck


async def _quiet(call: Any) -> Any:
    """The outcome; None where it was refused or could not be made durable."""
    try:
        return await call
    except (Refused, NotServedError):
        return None


# -- everything that the allocator cannot rule out

PORTS = st.builds(
    PortAsk,
    container=st.sampled_from(["a", "b"]),
    protocol=st.sampled_from([Protocol.TCP, Protocol.TCP, Protocol.UDP]),
    container_port=st.sampled_from([1, 2, 7000, 7001]),
    host_port=st.sampled_from([0, 0, 7000, 7001, 7002]),
    host_ip=st.sampled_from(["", "", "", "10.0.0.1", "10.0.0.2"]),
    count=st.sampled_from([1, 1, 1, 2, 3]),
)
PLACES = st.sampled_from(
    [
        *[Where()] * 4,
        Where(disk="ssd"),
        Where(only="n1"),
        Where(only="n2"),
        Where(node_name="n1"),
        Where(node_name="ghost"),
        Where(tolerates="dedicated"),
    ]
)


class AnyPods(Common):
    first_nodes: ClassVar[tuple[RealNode, ...]] = (RealNode("n1"), RealNode("n2"), RealNode("n3", disk="hdd"))
    templates = st.builds(
        Template,
        namespace=st.sampled_from(["x", "x", "y"]),
        name=st.sampled_from(["", "", "db-0", "db-1"]),
        ports=st.lists(PORTS, min_size=1, max_size=2).map(tuple),
        controller=st.sampled_from(["", "rs"]),
        policy=st.sampled_from([*POLICIES.values(), STATIC]),
        high=st.sampled_from([7002, 7005]),
        index=st.sampled_from([0, 1, None]),
        where=PLACES,
        priority=st.sampled_from([0, 0, 10]),
        may_preempt=st.booleans(),
        when_full=st.sampled_from([None, None, WhenFull.PENDING]),
        can_steer=st.booleans(),
    )

    @precondition(lambda self: self.creates)
    @rule(data=st.data())
    def give_a_reservation_back(self, data: st.DataObject) -> None:
        """Somebody calls Release with the id of a Pod that is on its way: from then on it is a Pod of others."""
        create = data.draw(st.sampled_from(self.creates))
        self.given_back.add(create.claim)
        self.release(create.claim)

    @rule(data=st.data())
    def store_a_pod_of_others(self, data: st.DataObject) -> None:
        """It has host ports, and never asked."""
        template, number = data.draw(self.templates), self.fresh()
        if template.name and self.reality.find(template.namespace, template.name) is not None:
            return
        ports = tuple(
            RealPort(port.container, port.protocol.value, port.host_port or 7001, port.host_ip)
            for port in template.ports[:1]
        )
        pod = RealPod(
            uid=f"u{number}",
            namespace=template.namespace,
            name=template.name or f"other-{number}",
            ports=ports,
            where=template.where,
            node=template.where.node_name,
            priority=template.priority,
        )
        self.reality.store(self.reality.admit_by_kubelet(pod))

    @precondition(lambda self: any(pod.claim for pod in self.reality.pods.values()))
    @rule(data=st.data())
    def store_a_copy(self, data: st.DataObject) -> None:
        """A Pod is copied with its annotations, and does not ask."""
        pod = self.pick(data, [pod for pod in self.reality.pods.values() if pod.claim])
        number = self.fresh()
        copy = replace(
            pod, uid=f"u{number}", name=f"copy-{number}", claim="", node="", is_finished=False, is_terminating=False
        )
        self.reality.store(self.reality.admit_by_kubelet(replace(copy, node=copy.where.node_name)))

    @precondition(lambda self: any(pod.may_preempt for pod in self.waiting()))
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        """The scheduler deletes Pods of lower priority, with their grace periods."""
        pod = self.pick(data, [pod for pod in self.waiting() if pod.may_preempt])
        for node in self.reality.nodes.values():
            victims = self.reality.victims(pod, node.name) if pod.where.admits(node) else None
            if victims:
                for victim in victims:
                    self.reality.store(replace(victim, is_terminating=True))
                return

    @rule(
        name=st.sampled_from(["n1", "n2", "n3", "ghost"]),
        disk=st.sampled_from(["ssd", "hdd"]),
        taint=st.sampled_from(["", "", "dedicated", "node.kubernetes.io/not-ready"]),
        is_cordoned=st.booleans(),
    )
    def put_a_node(self, name: str, disk: str, taint: str, is_cordoned: bool) -> None:
        """It comes, is relabelled, tainted or cordoned."""
        self.reality.put_node(RealNode(name, disk, taint, is_cordoned))

    @rule(
        node=st.sampled_from(["n1", "n1", "n2", "n3"]),
        socket=st.tuples(
            st.sampled_from(["0.0.0.0", "0.0.0.0", "10.0.0.1"]),
            st.sampled_from(["TCP", "TCP", "UDP"]),
            st.sampled_from([7000, 7001, 7002]),
        ),
    )
    def open_or_close_a_socket(self, node: str, socket: Key) -> None:
        """A program does, be it a Pod's or not, and the agent of its node tells."""
        opened = self.sockets.setdefault(node, set())
        if socket in opened:
            opened.remove(socket)
            self.process.report(node, closed=[socket])
        else:
            opened.add(socket)
            self.process.report(node, opened=[socket])

    @rule(
        name=st.sampled_from(["a", "b"]),
        protocol=st.sampled_from(["TCP", "TCP", "UDP"]),
        number=st.sampled_from([7000, 7001, 7001, 7002]),
        is_told_by_a_list=SELDOM,
    )
    def put_or_drop_a_service(self, name: str, protocol: str, number: int, is_told_by_a_list: bool) -> None:
        """A Service takes a node port, which a Pod may have, takes another one, or is deleted."""
        service = RealService(name, protocol, number)
        is_there = self.reality.services.get(name) == service
        event = self.reality.drop_service(name) if is_there else self.reality.put_service(service)
        if is_told_by_a_list:
            self.process.list_services()
        else:
            self.process.tell_service(event)

    @invariant()
    def whoever_has_the_number_of_a_service_is_told(self) -> None:
        """But for reservations, which have no Pod yet; and nobody else is."""
        ledger, node_ports = self.ledger, self.reality.node_ports
        both = {
            claim.id: claim
            for claim in ledger._store.claims.values()
            if any((protocol, number) in node_ports for _, protocol, number in keys_of(claim))
        }
        assert (ledger.claims.tally().node_port_conflicts > 0) is (len(both) > 0)
        told = ledger._replanner.node_ports.told.keys()
        assert told >= {claim.id for claim in both.values() if claim.state is not State.RESERVED}, told
        assert told <= both.keys(), told

    @precondition(lambda self: self.reality.nodes)
    @rule(data=st.data())
    def drop_a_node(self, data: st.DataObject) -> None:
        self.reality.drop_node(data.draw(st.sampled_from(sorted(self.reality.nodes))))

    @invariant()
    def no_plan_stands_beside_a_process(self) -> None:
        """That nobody declares who is settled there."""
        ports, nodes = self.ledger._store.ports, self.ledger._store.nodes
        for claim in self.ledger._store.claims.values():
            if claim.node is not None and not claim.is_settled:
                beside = [key for key in claim.keys if ports.foreign(key) & nodes.only(claim.node)]
                assert not beside, (claim, beside)

    @invariant()
    def the_index_stays_what_the_claims_say(self) -> None:
        self.the_index_is_what_the_claims_say(LAST_USED)


# -- where more is promised


class Steered(Common):
    """Pods of one fixed number on two nodes, beside leases of it: those that can be kept off a node are."""

    first_nodes = (RealNode("n1"), RealNode("n2"))
    has_sidecars = False
    templates = st.builds(
        Template,
        namespace=st.just("x"),
        ports=st.builds(
            PortAsk, container=st.just("a"), container_port=st.just(1), host_port=st.sampled_from([7000, 7000, 7001])
        ).map(lambda port: (port,)),
        policy=st.just(STATIC),
        high=st.just(7001),
        can_steer=st.sampled_from([True, True, False]),
    )


class OnePort(Common):
    """Pods of one port each that may run anywhere, on nodes that stay: each has a node left, wherever others go."""

    first_nodes = (RealNode("n1"), RealNode("n2"))
    has_sidecars = False
    templates = st.builds(
        Template,
        namespace=st.just("x"),
        name=st.sampled_from(["", "", "", "db-0"]),
        ports=st.builds(
            PortAsk,
            container=st.just("a"),
            container_port=st.just(1),
            host_port=st.sampled_from([0, 7000, 7000, 7000, 7000, 7001]),
        ).map(lambda port: (port,)),
        high=st.just(7001),
    )

    @precondition(lambda self: len(self.reality.nodes) < 3)
    @rule()
    def add_a_node(self) -> None:
        self.reality.put_node(RealNode(f"n{len(self.reality.nodes) + 1}"))

    @invariant()
    def every_pod_that_we_admitted_has_a_node_left(self) -> None:
        """Nodes where a Pod terminates count: it is gone before long, and who waits there starts then."""
        for number in (7000, 7001, 7002):
            port = frozenset({("0.0.0.0", "TCP", number)})
            waiting = {
                (pod.namespace, pod.name) for pod in self.waiting() if pod.keys == port and not pod.is_terminating
            }
            coming = [create for create in self.creates if create.keys == port and not self.is_given_back(create.claim)]
            names = {(create.template.namespace, create.template.name) for create in coming if create.template.name}
            wanted = len(waiting) + sum(not create.template.name for create in coming)
            wanted += sum(self.reality.find(*name) is None for name in names)
            taken = {
                pod.node
                for pod in self.reality.pods.values()
                if pod.node and pod.keys == port and not (pod.is_finished or pod.is_terminating)
            } | {lease.node for lease in self.leases.values() if lease.keys == port}
            assert wanted <= len(self.reality.nodes.keys() - taken), (number, wanted, taken)


class Displaced(AnyPods):
    """Pods of one port each on two nodes, among all that may displace them."""

    first_nodes = OnePort.first_nodes
    has_sidecars = False
    templates = OnePort.templates


class OneNumber(OnePort):
    """Pods of one number without names, on two nodes: what is left for the next Pod depends on those before it."""

    templates = st.builds(
        Template,
        namespace=st.just("x"),
        ports=st.just((PortAsk(container="a", container_port=1, host_port=7000),)),
        high=st.just(7001),
    )
