"""What is journalled, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from itertools import count, pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from allocator.app.build import Collaborators, build
from allocator.core.admission import LedgerRules
from allocator.core.asks import Ask, NotServedError, Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, ClusterChange, Owner, PodUid, State
from allocator.core.foreign import NodePort, ObservedService, ServiceName
from allocator.core.ledger import Ledger
from allocator.core.ports import Protocol
from allocator.engine import Engine
from allocator.freeing import MOST_FREED
from allocator.idempotency import IdempotencyKey
from allocator.journal.contract import Drop, Entry, Journal, JournalError, Put, always
from allocator.journal.memory import MemoryJournal
from allocator.maintenance import MOST_ENDING, MOST_SAVED
from hostport.contract import Reason
from testing.clock import FunctionClock
from testing.journals import EntryJournal
from testing.kit import ask, claim_port, node, pod, report
from testing.servicekit import Start

NUMBER = "main:80=500"


class Recording(EntryJournal):
    """What was submitted, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def record(self, entries: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]:
        self.lines += [_line(entry) for entry in entries]
        return MemoryJournal().record(entries, is_wanted)


def _line(entry: Entry) -> str:
    match entry:
        case Put(claim):
            return f"{claim.owner.name} {claim.state.name}"
        case Drop(claim_id):
            return f"{claim_id} dropped"
    raise AssertionError(entry)


@pytest.fixture
def journal() -> Recording:
    return Recording()


@pytest.fixture
def engine(journal: Recording) -> Engine:
    return serving_engine(journal)


def serving_engine(journal: Journal) -> Engine:
    """One that serves, on one implicit node, whose clock stands still."""
    ids = count(1)
    ledger = Ledger(LedgerRules(implicit_node=NodeName("localhost")))
    engine = build(
        Collaborators(
            ledger=ledger,
            journal=journal,
            clock=FunctionClock(lambda: 1000.0),
            new_id=lambda: ClaimId(f"claim-{next(ids)}"),
        )
    ).engine
    engine.is_serving = True
    return engine


async def grant(engine: Engine, name: str, number: str = NUMBER) -> Claim:
    claims: list[Claim] = []

    def encode_response(claim: Claim, *_: object) -> bytes:
        claims.append(claim)
        return b""

    await engine.allocate(ask(name, number, policy="Static"), key=None, encode=encode_response, is_wanted=always)
    return claims[0]


async def test_a_pod_that_comes_into_sight_takes_no_commit_of_its_own_and_is_journalled_with_the_tick(
    engine: Engine, journal: Recording
) -> None:
    claim = await grant(engine, "first")
    engine.maintenance.observe(
        ClusterChange(pods=[pod("first", NUMBER, carried_id=claim.id, at="localhost")], lists_pods=False)
    )
    assert journal.lines == ["first RESERVED"]

    engine.maintenance.tick()
    assert journal.lines == ["first RESERVED", "first BOUND"]


async def test_a_port_is_journalled_as_free_before_it_is_journalled_as_taken_again(
    engine: Engine, journal: Recording
) -> None:
    claim = await grant(engine, "first")
    engine.maintenance.observe(
        ClusterChange(pods=[pod("first", NUMBER, uid="uid-1", carried_id=claim.id, at="localhost")], lists_pods=False)
    )
    engine.maintenance.observe(ClusterChange(gone_pods=[PodUid("uid-1")], lists_pods=False))
    await grant(engine, "second")

    assert journal.lines == ["first RESERVED", "claim-1 dropped", "second RESERVED"]


# -- a retry that joins a call under way


class Slow(EntryJournal):
    """Asks who wants what is submitted, and resolves it, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._submitted: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []
        self._wanted: list[tuple[bool, asyncio.Future[bool]]] = []

    def record(self, _: Sequence[Entry], is_wanted: Callable[[], bool] = always) -> asyncio.Future[bool]:
        self._submitted.append((is_wanted, asyncio.get_running_loop().create_future()))
        return self._submitted[-1][1]

    def begin(self) -> None:
        """Whoever has ceased to want by now gets nothing."""
        self._wanted += [(is_wanted(), future) for is_wanted, future in self._submitted]
        self._submitted = []

    def fail(self) -> None:
        self.begin()
        for _, future in self._wanted:
            future.set_exception(JournalError("as if the disk were full"))
        self._wanted = []

    def commit(self) -> None:
        self.begin()
        for is_wanted, future in self._wanted:
            future.set_result(is_wanted)
        self._wanted = []


class Caller:
    """Asks for one number with one request_id, until it goes."""

    def __init__(self, engine: Engine) -> None:
        self.wants = True
        self.answer = asyncio.create_task(
            engine.allocate(
                ask("first", NUMBER, policy="Static"),
                key=IdempotencyKey("r1", b"digest"),
                encode=lambda claim, *_: claim.id.encode(),
                is_wanted=lambda: self.wants,
            )
        )

    async def outcome(self) -> str:
        """The id that it was told, or why there is none."""
        try:
            return (await self.answer).response.decode()
        except NotServedError as error:
            return error.reason.name


def slow_engine() -> tuple[Engine, Slow]:
    journal = Slow()
    return serving_engine(journal), journal


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def callers(engine: Engine, number: int) -> list[Caller]:
    found = [Caller(engine) for _ in range(number)]
    await turns()
    return found


async def test_a_retry_that_joins_a_call_is_granted_though_the_first_caller_has_gone() -> None:
    engine, journal = slow_engine()
    first, second = await callers(engine, 2)

    first.wants = False
    journal.commit()

    assert await second.outcome() == "claim-1"


async def test_a_retry_that_joins_too_late_for_the_commit_of_a_call_that_dies_is_decided_anew() -> None:
    engine, journal = slow_engine()
    (first,) = await callers(engine, 1)
    first.wants = False
    journal.begin()
    joined = await callers(engine, 3)
    journal.commit()
    await turns()
    journal.commit()

    assert await first.outcome() == Reason.DEADLINE_PASSED.name
    assert [await each.outcome() for each in joined] == ["claim-2"] * 3
    assert [claim.id for claim in engine.ledger.claims] == ["claim-2"]


async def test_a_call_that_nobody_wants_any_more_dies_with_all_who_joined_it() -> None:
    engine, journal = slow_engine()
    every = await callers(engine, 3)
    for each in every:
        each.wants = False
    journal.commit()

    assert [await each.outcome() for each in every] == [Reason.DEADLINE_PASSED.name] * 3
    assert list(engine.ledger.claims) == []


class FarWatch:
    """A watch that shows no Pod, however long one waits."""

    def lag(self) -> float:
        return 0.0

    def hurry(self) -> None:
        """Nothing comes."""


async def test_a_retry_of_a_call_under_way_waits_for_no_first_sight_of_its_owner() -> None:
    engine, journal = slow_engine()
    first, second = await callers(engine, 1), None
    engine.around.watch = FarWatch()  # type: ignore[assignment]
    engine.ledger.limits.awaits_sight = lambda ask: True  # type: ignore[method-assign]  # noqa: ARG005
    second = (await callers(engine, 1))[0]
    journal.commit()
    await turns()

    assert (second.answer.done(), await first[0].outcome()) == (True, "claim-1")
    assert await second.outcome() == "claim-1"


# -- what happens in masses


async def test_what_ends_in_masses_is_ended_in_slices_until_nothing_is_due(engine: Engine, journal: Recording) -> None:
    count = 2 * MOST_ENDING + 10
    claims = [
        Claim(
            id=ClaimId(f"lease-{number}"),
            owner=Owner(kind="Service", namespace="lessee", name="r"),
            state=State.LEASED,
            ports=(claim_port(f"a:{1 + number}"),),
            created=0.0,
            node=NodeName("localhost"),
            expires=900.0,
        )
        for number in range(count)
    ]
    engine.ledger.restore(claims, 0.0)

    engine.maintenance.tick()
    assert len(journal.lines) == MOST_ENDING
    for _ in range(20):
        await asyncio.sleep(0)

    assert sorted(journal.lines) == sorted(f"lease-{number} dropped" for number in range(count))
    assert list(engine.ledger.claims) == []


async def test_the_ports_of_what_ended_together_become_free_some_in_each_turn(
    engine: Engine, journal: Recording
) -> None:
    """A Release is answered when its ports are free, and not before."""
    ports = [claim_port(f"a{at}:{1 + at}") for at in range(MOST_FREED // 2)]
    claims = [
        Claim(
            id=ClaimId(f"lease-{number}"),
            owner=Owner(kind="Service", namespace="lessee", name="r"),
            state=State.LEASED,
            ports=tuple(replace(port, host_ip=f"10.0.0.{number}") for port in ports),
            created=0.0,
            node=NodeName("localhost"),
            expires=2000.0,
        )
        for number in range(9)
    ]
    engine.ledger.restore(claims, 0.0)
    releases = [asyncio.ensure_future(engine.release(claim.id)) for claim in claims]
    left = [len(claims)]
    while left[-1]:
        await asyncio.sleep(0)
        left.append(len(engine.ledger.claims))
        answered = sum(each.done() for each in releases)
        assert answered <= len(claims) - left[-1]
    await asyncio.gather(*releases)

    assert max(before - after for before, after in pairwise(left)) == 2
    assert sorted(journal.lines) == [f"lease-{number} dropped" for number in range(9)]


async def test_what_cannot_be_ended_is_due_again_with_the_next_tick() -> None:
    engine, journal = slow_engine()
    lease = Claim(
        id=ClaimId("lease"),
        owner=Owner(kind="Service", namespace="lessee", name="r"),
        state=State.LEASED,
        ports=(claim_port("a:1"),),
        created=0.0,
        node=NodeName("localhost"),
        expires=900.0,
    )
    engine.ledger.restore([lease], 0.0)

    engine.maintenance.tick()
    journal.fail()
    await turns()
    assert list(engine.ledger.claims) == [lease]

    engine.maintenance.tick()
    journal.commit()
    await turns()
    assert list(engine.ledger.claims) == []


async def test_changes_in_masses_are_journalled_in_slices_and_all_of_them(engine: Engine, journal: Recording) -> None:
    numbers = range(1, 1 + 2 * MOST_SAVED)
    pods = [pod(f"p{number}", f"main:80={number}", at="localhost") for number in numbers]
    claims = [
        Claim(
            id=ClaimId(f"claim-{number}"),
            owner=Owner(namespace="demo", name=f"p{number}"),
            state=State.BOUND,
            ports=(claim_port(f"main:80={number}"),),
            created=0.0,
            node=NodeName("localhost"),
            pod_uid=pod.uid,
        )
        for number, pod in zip(numbers, pods, strict=True)
    ]
    engine.ledger.restore(claims, 0.0)
    engine.maintenance.observe(ClusterChange(gone_pods=[each.uid for each in pods], lists_pods=True))

    engine.maintenance.tick()
    assert len(journal.lines) == MOST_SAVED
    for _ in range(20):
        await asyncio.sleep(0)

    assert sorted(journal.lines) == sorted(f"{claim.id} dropped" for claim in claims)


async def test_of_the_answers_for_one_claim_the_newest_are_kept_as_many_as_fit_into_their_bound() -> None:
    ledger = Ledger(LedgerRules(implicit_node=NodeName("localhost")))
    engine = build(
        Collaborators(
            ledger=ledger,
            journal=MemoryJournal(),
            clock=FunctionClock(lambda: 1000.0),
            new_id=lambda: ClaimId("claim-1"),
        )
    ).engine
    engine.is_serving = True
    encoded: list[str] = []

    async def answer(request_id: str, carried: str) -> str:
        def encode_response(claim: Claim, *_: object) -> bytes:
            encoded.append(request_id)
            return claim.id.encode() + b" " * 10_000

        key = IdempotencyKey(request_id, b"")
        asked = ask("web-0", "http:7000=7000" if carried else "http:80", carried_id=carried)
        return (
            (await engine.allocate(asked, key=key, encode=encode_response, is_wanted=always)).response.decode().strip()
        )

    claim_id = await answer("r0", "")
    assert {await answer(f"r{at}", claim_id) for at in range(1, 12)} == {claim_id}
    encoded.clear()

    assert {await answer(f"r{at}", claim_id) for at in (11, 7, 1)} == {claim_id}
    assert encoded == ["r1"]


# -- a Pod that is asked about again, and no longer fits


class Doubting:
    """A watch whose look at the holders of a port takes until `told`, and comes to nothing."""

    def __init__(self, lag: float) -> None:
        self.begun, self.told = asyncio.Event(), asyncio.Event()
        self._lag = lag

    async def look(self, pods: object, asker: str) -> bool:
        self.begun.set()
        await self.told.wait()
        return False

    look_up_services = look

    def lag(self) -> float:
        return self._lag


@pytest.mark.parametrize(
    ("lag", "told", "left"),
    [
        pytest.param(0.0, Refused, [], id="the denial is final: the Pod keeps nothing"),
        pytest.param(60.0, NotServedError, [500], id="the view is old: nothing was decided, and nothing changed"),
    ],
)
async def test_a_pod_that_no_longer_fits_keeps_its_ports_until_the_denial_is_final(
    engine: Engine, journal: Recording, lag: float, told: type[Exception], left: list[int]
) -> None:
    mine = await grant(engine, "first")
    engine.maintenance.observe(ClusterChange(pods=[pod("other", "mesh:600", at="localhost")], lists_pods=True))
    engine.around.watch = watch = Doubting(lag)  # type: ignore[assignment]
    grown = ask("first", "mesh:600=600", "main:500=500", policy="Static", carried_id=mine.id)

    again = asyncio.create_task(engine.allocate(grown, key=None, encode=lambda *_: b"", is_wanted=always))
    await watch.begun.wait()
    assert journal.lines == ["first RESERVED"], "others must not be given its ports yet"
    watch.told.set()
    with pytest.raises(told):
        await again
    await asyncio.sleep(0)

    held = [engine.ledger.claims.get(mine.id)]
    assert [key.number for claim in held if claim for key in claim.keys] == left


WEB = ObservedService(namespace="demo", name="web", uid="web", ports=(NodePort(protocol=Protocol.TCP, number=30000),))


class Finding:
    """A watch by which some Services have gone when they are looked up, or at which nobody answers."""

    def __init__(self, engine: Engine, *, gone: Sequence[ServiceName] = (), answers: bool = True, lag: float) -> None:
        self.asked: list[ServiceName] = []
        self._engine, self._gone, self._answers, self._lag = engine, gone, answers, lag

    async def look_up_services(self, services: Collection[ServiceName], asker: str) -> bool:
        self.asked += services
        if self._gone:
            self._engine.maintenance.observe(ClusterChange(gone_services=self._gone, lists_pods=False))
        return self._answers

    def lag(self) -> float:
        return self._lag


async def outcome(engine: Engine, asked: Ask) -> str:
    """What is answered: the numbers that are given, or the reason why none are."""
    try:
        granted = await engine.allocate(asked, key=None, encode=lambda *_: b"", is_wanted=always)
    except Refused as refused:
        return str(refused.mistakes[0].reason)
    except NotServedError as error:
        return str(error.reason)
    assert granted.claim is not None
    return str([key.number for key in granted.claim.keys])


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        pytest.param(lambda: ask("a", "x:1=30000", policy="Static"), "HELD_BY_SERVICE", id="Static"),
        pytest.param(lambda: ask("a", "x:1", low=30000, high=30000), "RANGE_EXHAUSTED", id="Dynamic"),
    ],
)
@pytest.mark.parametrize(
    ("finding", "told"),
    [
        pytest.param({"lag": 60.0}, None, id="it is there, however old the view is"),
        pytest.param({"gone": [WEB.full_name], "lag": 60.0}, "[30000]", id="it has gone"),
        pytest.param({"answers": False, "lag": 3.0}, "VIEW_STALE", id="nobody answers, and the view is old"),
        pytest.param({"answers": False, "lag": 1.0}, None, id="nobody answers, and the view is young"),
    ],
)
async def test_a_service_is_looked_up_before_anybody_is_denied_for_it(
    engine: Engine, asked: Callable[[], Ask], reason: str, finding: dict[str, Any], told: str | None
) -> None:
    """told: what is answered; None: the denial stands, with its reason."""
    engine.maintenance.observe(ClusterChange(services=[WEB]))
    watch = engine.around.watch = Finding(engine, **finding)  # type: ignore[assignment]

    assert await outcome(engine, asked()) == (told or reason)
    assert watch.asked == [WEB.full_name]


async def test_of_many_services_in_a_range_sixteen_are_looked_up_before_a_denial(engine: Engine) -> None:
    names = [("demo", f"web-{number}") for number in range(20)]
    services = [
        ObservedService(namespace=namespace, name=name, ports=(NodePort(protocol=Protocol.TCP, number=30000 + at),))
        for at, (namespace, name) in enumerate(names)
    ]
    engine.maintenance.observe(ClusterChange(services=services))
    watch = engine.around.watch = Finding(engine, lag=60.0)  # type: ignore[assignment]

    assert await outcome(engine, ask("a", "x:1", low=30000, high=30019)) == "RANGE_EXHAUSTED"
    assert watch.asked == names[:16]


@pytest.mark.parametrize(
    ("gone", "given"),
    [
        pytest.param({"gone_pods": [PodUid("uid-demo-other")]}, "[30001]", id="a Pod"),
        pytest.param({"gone_services": [WEB.full_name]}, "[30000]", id="a Service"),
        pytest.param({"reports": [report("localhost", closed=(":30002",))]}, "[30002]", id="a process"),
    ],
)
async def test_what_goes_while_holders_are_looked_up_is_no_reason_to_deny(
    engine: Engine, gone: dict[str, Any], given: str
) -> None:
    """The look comes to nothing, but meanwhile the cluster changes."""
    other = pod("other", "x:30001", at="localhost")
    engine.maintenance.observe(ClusterChange(services=[WEB], pods=[other], reports=[report("localhost", "sshd:30002")]))
    engine.around.watch = watch = Doubting(0.0)  # type: ignore[assignment]

    asked = asyncio.create_task(outcome(engine, ask("a", "x:1", low=30000, high=30002)))
    await watch.begun.wait()
    engine.maintenance.observe(ClusterChange(**gone))
    watch.told.set()

    assert await asked == given


async def test_a_node_port_conflict_that_nobody_told_is_told_by_who_serves_next(start: Start) -> None:
    """Nobody serves when a standby sees it."""
    service = await start(rules=LedgerRules())
    engine = service.engine
    engine.maintenance.observe(ClusterChange(nodes=[node("n1")], lists_pods=True))
    claim = await grant(engine, "game", "x:1=30000")
    engine.maintenance.observe(ClusterChange(pods=[pod("game", "x:1=30000", at="n1", carried_id=claim.id)]))

    engine.around.who_serves = lambda: "another"
    engine.maintenance.observe(ClusterChange(services=[WEB]))
    engine.maintenance.stand_by()
    assert service.events == []

    engine.around.who_serves = str
    for _ in range(3):
        engine.maintenance.tick()
    told = [(each.subject.kind, each.subject.name, each.reason) for each in service.events]
    assert told == [("Service", "web", "NodePortConflict"), ("Pod", "game", "NodePortConflict")]
