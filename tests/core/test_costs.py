"""What one command costs at 5,000 nodes, whoever stands and waits there: instructions of one turn, without the wire."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from allocator.core.asks import Ask, Refused, UndecidedError
from allocator.core.candidates import Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import ClaimId
from allocator.core.ports import WILDCARD, PortKey, Protocol, runs_of, set_of, slot_of
from allocator.core.sockets import Listener, NodeFacts, SocketChange
from testing.costing import counting, instructions
from testing.kit import Desk, ask, node, on, pod, report

NODES = 5_000
MOST = 12_000_000
"""Instructions: far above what these take, and far below what they took. The table of stalls holds the milliseconds."""

MOST_OF_A_SEARCH = 3_000_000
"""Instructions of a search that is cut off: 30 ms."""


def fleet() -> Desk:
    return Desk(*[node(f"n{at:04}", labels={"name": f"n{at:04}", "zone": str(at % 10)}) for at in range(NODES)])


@contextmanager
def is_cheap(most: int = MOST) -> Iterator[None]:
    with counting() as cost:
        yield
    assert cost.instructions < most


def reason_of(desk: Desk, asked: Ask) -> str:
    """Why an ask is refused; empty when it is granted. `Desk.refusal` compares all that is seen before and after."""
    try:
        desk.ledger.preview(asked, desk.now)
    except Refused as refused:
        return refused.mistakes[0].reason
    except UndecidedError:
        return "SEARCH_INCOMPLETE"
    return ""


def of_two(at: int) -> Constraints:
    values = (f"n{at:04}", f"n{at + 1:04}")
    return Constraints(affinity=(Term(expressions=(Requirement(key="name", operator="In", values=values),)),))


@pytest.mark.parametrize("policy", ["Static", "Dynamic"])
def test_a_long_chain_of_plans_that_could_each_move_by_one_node_costs_little(policy: str) -> None:
    desk = fleet()
    desk.observe(pods=[pod(f"w{at}", "x:1=7000", constraints=of_two(at)) for at in range(NODES - 2)])
    while desk.ledger.has_more_to_replan:
        desk.ledger.replan()
    port = "x:1=7000" if policy == "Static" else "x:1"
    with is_cheap(), pytest.raises((Refused, UndecidedError)):
        desk.grant(ask("late", port, policy=policy, constraints=of_two(0), low=7000, high=7000))


def test_a_pod_goes_cheaply_from_a_node_where_others_have_its_512_numbers_on_other_addresses() -> None:
    desk = fleet()
    pods = [pod(f"p{of}", *[f"x{n}:{n}@10.0.0.{of}" for n in range(7000, 7512)], at="n0003") for of in range(60)]
    desk.observe(pods=pods)
    with is_cheap():
        desk.observe(gone_pods=[pods[0].uid])
    (granted,) = desk.numbers(ask("next", "x:1=7000@10.0.0.0", policy="Static", constraints=on("n0003")))
    assert granted == 7000
    assert "PORT_CONFLICT" in desk.refusal(ask("no", "x:1=7000@10.0.0.1", policy="Static", constraints=on("n0003")))


@pytest.mark.parametrize(
    "ports",
    [
        pytest.param([f"x{n}:{n}={n}" for n in range(20_000, 20_512)], id="512 ports"),
        pytest.param([f"x{n}:{n}={n}*8" for n in range(20_000, 22_560, 10)], id="256 blocks"),
        pytest.param([f"x{n}:{n}={n}" for n in range(1_100, 65_000, 125)], id="512 ports all over"),
    ],
)
def test_a_pod_of_many_ports_comes_and_goes_cheaply_under_many_candidate_sets(ports: list[str]) -> None:
    desk = fleet()
    for at in range(64):
        kept = Constraints(tolerations=(Toleration(key=f"t{at}"),))
        desk.ledger.preview(ask("kept", "x:1", low=1_024, high=65_000, constraints=kept), desk.now)
    many = pod("many", *ports, at="n0003")
    with is_cheap(2_500_000):
        desk.observe(pods=[many])
    with is_cheap(2_500_000):
        desk.observe(gone_pods=[many.uid])


def test_plans_are_mended_a_few_at_a_time_where_every_pod_that_waits_has_a_selector_of_its_own() -> None:
    """Each change of a plan asks every wide candidate set: four hundred of each are too much for one turn."""
    desk = fleet()
    kinds = [Constraints(selector=(("zone", "3"),), tolerations=(Toleration(key=f"t{at}"),)) for at in range(400)]
    desk.observe(pods=[pod(f"w{at}", f"x:1={10_000 + at}", constraints=kind) for at, kind in enumerate(kinds)])
    assert desk.ledger.has_more_to_replan
    while desk.ledger.has_more_to_replan:
        desk.ledger.replan()
    assert all(claim.node for claim in desk.ledger.claims)


def test_plans_of_one_name_with_many_ports_are_looked_at_a_few_at_a_time() -> None:
    desk = fleet()
    for of in range(60):
        numbers = [f"x{n}:{n}={n}@10.0.0.{of}" for n in range(7000, 7512)]
        desk.grant(ask("same", *numbers, policy="Static", constraints=on("n0003")))
    with is_cheap():
        desk.observe(nodes=[node("n0004", labels={"zone": "x"})])


def test_a_selector_that_was_never_seen_is_denied_cheaply_where_its_nodes_are_full() -> None:
    desk = fleet()
    for name in ("n0003", "n0004"):
        numbers = range(10_000, 60_000, 500)
        pods = [pod(f"{name}-{low}", *[f"x{n}:{n}" for n in range(low, low + 500)], at=name) for low in numbers]
        desk.observe(pods=pods)
    within = Constraints(affinity=of_two(3).affinity, tolerations=(Toleration(key="never"),))
    with counting() as cost:
        assert reason_of(desk, ask("late", "x:1", low=10_000, high=59_999, constraints=within)) == "RANGE_EXHAUSTED"
    assert cost.instructions < 200_000  # it took a million


@pytest.mark.parametrize(
    ("waiting", "ports", "reason"),
    [
        pytest.param(10, 100, "PORT_CONFLICT", id="few with many ports"),
        pytest.param(10, 512, "SEARCH_INCOMPLETE", id="few with very many"),
        pytest.param(300, 10, "PORT_CONFLICT", id="many with some"),
        pytest.param(100, 512, "SEARCH_INCOMPLETE", id="many with very many"),
    ],
)
@pytest.mark.parametrize("asked", [1, 50])
def test_pods_of_many_ports_that_wait_make_no_ask_dear(waiting: int, ports: int, asked: int, reason: str) -> None:
    """One of them could go elsewhere, were its last port free there: to see that, all of their ports are looked at."""
    desk = Desk(*[node(f"n{at}", labels={"zone": "a"}) for at in range(waiting)], "spare")
    here = Constraints(selector=(("zone", "a"),))
    held = [f"x{number}:{number}" for number in range(8000, 8000 + ports)]
    desk.observe(pods=[pod(f"w{at}", *held, constraints=here) for at in range(waiting - 1)])
    desk.observe(pods=[pod("anywhere", *held), pod("last", held[-1], at="spare")])
    while desk.ledger.has_more_to_replan:
        desk.ledger.replan()
    wanted = [f"x{number}:1={number}" for number in range(8000, 8000 + min(asked, ports - 1))]
    late = ask("late", *wanted, policy="Static", constraints=here)
    with counting() as cost:
        assert reason_of(desk, late) == reason
    assert cost.instructions < MOST_OF_A_SEARCH


def test_pods_whose_many_ports_are_on_other_addresses_make_no_ask_dear() -> None:
    desk = Desk("n1", "n2")
    for at in range(300):
        held = [f"x{number}:{number}@10.0.{at}.1" for number in range(8000, 8100)]
        desk.observe(pods=[pod(f"w{at}", *held, constraints=on("n1"))])
    wanted = [f"x{number}:1={number}" for number in range(8000, 8100)]
    with counting() as cost:
        reason_of(desk, ask("late", *wanted, policy="Static", constraints=on("n1")))
    assert cost.instructions < MOST_OF_A_SEARCH


def test_a_pod_of_512_ports_that_its_namesake_has_is_denied_cheaply() -> None:
    desk = Desk("n1", "n2", "n3")
    held = [f"x{number}:{number}" for number in range(8000, 8512)]
    desk.observe(pods=[pod("web-0", *held, constraints=on("n1"))])
    desk.observe(pods=[pod(f"w{at}", f"x:{8000 + at}") for at in range(200)])
    desk.observe(pods=[pod(f"b{at}", "x:8511", at=f"n{at}") for at in (2, 3)])
    again = ask("web-0", *[f"x{number}:1={number}" for number in range(8000, 8512)], policy="Static")
    with counting() as cost:
        reason_of(desk, again)
    assert cost.instructions < MOST_OF_A_SEARCH


def test_plans_of_512_ports_that_stand_in_each_others_way_are_mended_a_few_at_a_time() -> None:
    desk = Desk(*[f"n{at}" for at in range(6)])
    desk.observe(pods=[pod(f"w{at}", *[f"x{n}:{n + at}" for n in range(8000, 8512)]) for at in range(12)])
    while desk.ledger.has_more_to_replan:
        with counting() as cost:
            desk.ledger.replan()
        assert cost.instructions < MOST_OF_A_SEARCH


@pytest.mark.parametrize("many", [1, 2], ids=["ports", "blocks"])
def test_plans_of_512_ports_are_put_elsewhere_one_at_a_time(many: int) -> None:
    """To take 512 ports off one node and put them on another takes 10 ms, and twice as long where they are blocks."""
    desk = Desk(*[f"n{at}" for at in range(12)])
    wide = [f"x{at}:{at + 1}={8_000 + many * at}*{many}" for at in range(512)]
    waiting = [desk.grant(ask(f"w{at}", *wide, policy="Static")).id for at in range(6)]

    def places() -> dict[ClaimId, NodeName | None]:
        return {claim.id: claim.node for claim in desk.ledger.claims if claim.id in waiting}

    def changed(before: dict[ClaimId, NodeName | None], after: dict[ClaimId, NodeName | None]) -> int:
        return sum(before[claim_id] != after[claim_id] for claim_id in before)

    stood = places()
    desk.observe(pods=[pod(f"s{node}", "x:8000", at=node) for node in stood.values()])

    moved = [changed(stood, stood := places())]
    while desk.ledger.has_more_to_replan:
        desk.ledger.replan()
        moved.append(changed(stood, stood := places()))
    assert (max(moved), sum(moved)) == (1, 6)


def test_thousands_of_priorities_make_no_ask_dear() -> None:
    desk = fleet()
    desk.observe(pods=[pod(f"p{at}", "x:9000", at=f"n{at:04}", priority=at) for at in range(3_000)])
    many = [f"x{at}:{at}" for at in range(1, 513)]
    with is_cheap():
        reason_of(desk, ask("ranked", *many, low=9_000, high=9_511, priority=2_000, may_preempt=True))
    with is_cheap():
        reason_of(desk, ask("ranked", "x:1=9000", policy="Static", priority=2_000, may_preempt=True))


def test_a_node_with_many_ports_changes_cheaply_though_many_candidate_sets_have_counted_them() -> None:
    desk = fleet()
    desk.observe(pods=[pod("many", *[f"x{n}:{n}" for n in range(7_000, 7_512)], at="n0003")])
    for at in range(400):
        within = Constraints(selector=(("zone", "3"),), tolerations=(Toleration(key=f"t{at}"),))
        desk.grant(ask(f"w{at}", "x:1", low=7_000, high=7_999, constraints=within))
    with is_cheap():
        desk.observe(nodes=[node("n0003", labels={"name": "n0003", "zone": "4"})])
    (granted,) = desk.numbers(ask("next", "x:1", low=7_000, high=7_999, constraints=on("n0003")))
    assert granted >= 7_512


def test_30_000_separate_numbers_are_told_as_runs_in_one_pass() -> None:
    """Such a set is 8 KiB: to look for each run in a copy of what is left took half a second."""
    numbers = set_of(range(1_000, 61_000, 2))
    assert instructions(lambda: deque(runs_of(numbers), maxlen=0)) < 40 * numbers.bit_count()  # it took 80 each


def test_what_is_given_on_a_node_has_the_numbers_of_blocks_by_whatever_protocol() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("a", "x:1000*3", "y:1001/UDP*4", at="n1"), pod("b", "x:1003", "z:7/SCTP", at="n1")])
    assert desk.ledger.nodes.given_on(NodeName("n1")) == set_of([7, *range(1000, 1005)])


def test_many_addresses_cost_little_where_each_node_has_sockets_on_an_address_of_its_own() -> None:
    desk, numbers = fleet(), range(9_100, 9_108)
    own = [f"10.0.{at >> 8}.{at & 255}" for at in range(NODES)]
    desk.observe(
        reports=[report(f"n{at:04}", *[f"exporter:{number}@{ip}" for number in numbers]) for at, ip in enumerate(own)]
    )
    ports = [f"x{n}{at}:{at + 1}={n}@{own[at]}" for n in numbers for at in range(64)]
    with counting() as cost:
        assert reason_of(desk, ask("many", *ports, policy="Static")) == ""
    assert cost.instructions < 2_000_000  # going through the nodes took 400 million


def test_who_is_in_the_way_on_one_address_is_found_cheaply_among_10_000_addresses() -> None:
    desk = Desk("n1")
    desk.observe(reports=[report("n1", *[f"a:9100@10.0.{at >> 8}.{at & 255}" for at in range(10_000)], "b:9100")])
    found, key = list[object](), PortKey("10.0.1.7", Protocol.TCP, 9_100)
    assert instructions(lambda: found.extend(desk.ledger.nodes.sockets.listeners(NodeName("n1"), key))) < 1_000
    assert sorted(map(str, found)) == ["process a", "process b"]


# -- one number that is open on many addresses, as of a program that binds every address of its node


class Compared(Listener, frozen=True, gc=False):
    """A socket that is compared in Python, so that it is counted how often that is done."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Listener) and self.ip == other.ip

    def __hash__(self) -> int:
        return hash(self.ip)


def ntpd(addresses: int) -> SocketChange:
    """One program has 7000 on so many addresses of n1."""
    slot = slot_of(Protocol.TCP, 7_000)
    opened = [(slot, Compared(f"10.{at >> 8}.{at & 255}.1", "ntpd")) for at in range(addresses)]
    return SocketChange(node=NodeName("n1"), opened=opened, facts=NodeFacts())


def denied(addresses: int) -> int:
    desk = Desk("n1")
    desk.observe(reports=[ntpd(addresses)])
    return instructions(lambda: reason_of(desk, ask("late", "x:1=7000", policy="Static")))


def pod_goes(addresses: int) -> int:
    desk = Desk("n1")
    desk.observe(pods=[pod("p", "x:7000", at="n1", uid="p")], reports=[ntpd(addresses)])
    return instructions(lambda: desk.observe(gone_pods=["p"]))


def opens_beside(addresses: int) -> int:
    desk = Desk("n1")
    desk.observe(pods=[pod("p", "x:7000@10.0.0.2", at="n1")])
    return instructions(lambda: desk.observe(reports=[ntpd(addresses)]))


def closes_beside(addresses: int) -> int:
    desk = Desk("n1")
    desk.observe(pods=[pod("p", "x:7000@10.0.0.2", at="n1")], reports=[ntpd(addresses)])
    closed = [(slot, socket.ip) for slot, socket in ntpd(addresses).opened]
    return instructions(lambda: desk.observe(reports=[SocketChange(node=NodeName("n1"), closed=closed)]))


def node_goes(addresses: int) -> int:
    desk = Desk("n1")
    desk.observe(pods=[pod("p", "x:7000@10.0.0.2", at="n1")], reports=[ntpd(addresses)])
    return instructions(lambda: desk.observe(gone_nodes=["n1"]))


@pytest.mark.parametrize("cost", [denied, pod_goes, opens_beside, closes_beside, node_goes])
def test_one_number_on_many_addresses_costs_no_more_for_each_where_they_are_many(cost: Callable[[int], int]) -> None:
    few, many = cost(300), cost(1_200)

    assert many < 5 * few, "four times as many addresses"


def test_a_pod_with_a_number_on_many_addresses_comes_cheaply_where_a_process_has_it_on_many_others() -> None:
    def comes(addresses: int) -> int:
        desk = Desk("n1")
        desk.observe(reports=[ntpd(addresses)])
        ports = [f"x{at}:7000@10.200.0.{at}" for at in range(addresses // 8)]
        return instructions(lambda: desk.observe(pods=[pod("p", *ports, at="n1")]))

    assert comes(1_200) < 5 * comes(300)


def test_what_stands_beside_a_pod_is_found_on_each_address_as_it_opens_and_closes() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("p", "x:7000@10.0.0.2", at="n1")], reports=[ntpd(3)])
    ports = desk.ledger._store.ports

    def found() -> list[str]:
        return [ip for ip in ("10.0.0.1", "10.0.1.1", "10.0.2.1") if ports.foreign(PortKey(ip, Protocol.TCP, 7_000))]

    assert found() == ["10.0.0.1", "10.0.1.1", "10.0.2.1"]
    desk.observe(reports=[report("n1", closed=(":7000@10.0.0.1",))])
    assert found() == ["10.0.1.1", "10.0.2.1"]
    desk.observe(reports=[report("n1", closed=(":7000@10.0.1.1", ":7000@10.0.2.1"))])
    assert (found(), bool(ports.foreign(PortKey(WILDCARD, Protocol.TCP, 7_000)))) == ([], False)
