"""Services hold their node ports on every node: no ask gets one, and who has one already keeps it and is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from allocator.core.asks import Ask, Refused, WhenFull
from allocator.core.claims import ClaimPort
from allocator.core.foreign import NodePort, ObservedService
from allocator.core.ports import Protocol
from allocator.core.watch.replanner import Incident, IncidentKind
from testing.costing import instructions
from testing.kit import Desk, ask, lease, node, on, pod, report


def service(name: str, *ports: str, namespace: str = "demo") -> ObservedService:
    """A Service with node ports, as `30080`, `30053/UDP` or `health:30081`."""
    held = []
    for text in ports:
        number, _, protocol = text.removeprefix("health:").partition("/")
        held.append(
            NodePort(
                number=int(number), protocol=Protocol(protocol or "TCP"), is_health_check=text.startswith("health:")
            )
        )
    return ObservedService(namespace=namespace, name=name, uid=f"uid-{name}", ports=tuple(held))


def desk(*ports: str, nodes: tuple[str, ...] = ("n1", "n2"), **rules: Any) -> Desk:
    at = Desk(*nodes, **rules)
    at.observe(services=[service("web", *ports)])
    return at


HELD = (
    "7000/TCP is held on every node by Service demo/web (node port): kube-proxy takes what is sent to it. Choose another"
    " number, or give the Service another node port"
)


OF_ANOTHER = HELD.replace("Service demo/web (node port)", "a Service of another namespace (node port)")
AT_ADDRESS = HELD.replace("7000/TCP", "7000/TCP on 10.0.0.1")


@pytest.mark.parametrize(
    ("asked", "port", "sentence"),
    [
        pytest.param(ask("a", "x:1=7000", policy="Static"), 1, HELD, id="Static"),
        pytest.param(ask("a", "x:7000", policy="Passthrough"), 7000, HELD, id="Passthrough"),
        pytest.param(ask("a", "x:1", policy="Index", low=7000, high=7009, index=0), 1, HELD, id="Index"),
        pytest.param(ask("a", "x:1=7000", "y:2"), 1, HELD, id="a number that the user set, under Dynamic"),
        pytest.param(ask("a", "x:1=7000@10.0.0.1", policy="Static"), 1, AT_ADDRESS, id="on one address"),
        pytest.param(ask("a", "x:1=7000", policy="Static", when_full=WhenFull.PENDING), 1, HELD, id="who would wait"),
        pytest.param(ask("a", "x:1=7000", policy="Static", constraints=on("n9")), 1, HELD, id="an unknown node"),
        pytest.param(lease("relay", "x:1=7000", policy="Static"), 1, OF_ANOTHER, id="a lease"),
    ],
)
def test_a_fixed_number_that_a_service_holds_is_refused_by_its_name(asked: Ask, port: int, sentence: str) -> None:
    assert desk("7000").refusal(asked) == {"HELD_BY_SERVICE": f"port x ({port}/TCP) of container c: {sentence}"}


def test_a_number_of_another_protocol_is_free() -> None:
    assert desk("7000").numbers(ask("a", "x:1/UDP=7000", policy="Static")) == [7000]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        pytest.param(ask("a", "x:1", low=7000, high=7009), [7002], id="free on every candidate"),
        pytest.param(ask("a", "x:1/UDP", low=7000, high=7009), [7000], id="another protocol"),
        pytest.param(ask("a", "x:1", "x:1/UDP", low=7000, high=7009), [7002, 7002], id="one number for two protocols"),
        pytest.param(ask("a", "x:1", "y:2/UDP", low=7001, high=7002), [7002, 7001], id="each protocol for itself"),
        pytest.param(ask("a", "x:1", low=7000, high=7002, constraints=on("n9")), [7002], id="a node that is not known"),
        pytest.param(lease("relay", "x:1", low=7000, high=7009), [7002], id="a lease"),
    ],
)
def test_dynamic_steps_over_what_a_service_holds(asked: Ask, numbers: list[int]) -> None:
    assert desk("7000", "health:7001").numbers(asked) == numbers


@pytest.mark.parametrize("protocol", ["", "/UDP"])
def test_where_nothing_is_free_everywhere_a_service_is_stepped_over_too(protocol: str) -> None:
    at = desk(f"7001{protocol}")
    for name, where in (("a", "n1"), ("b", "n2")):
        at.grant(ask(name, f"x:1{protocol}", low=7000, high=7002, constraints=on(where)))
    at.grant(ask("c", f"x:1{protocol}=7002", policy="Static", constraints=on("n1")))

    assert at.numbers(ask("d", f"x:1{protocol}", low=7000, high=7002)) == [7002], "on n2"
    assert at.refusal(ask("e", f"x:1{protocol}", low=7000, high=7002)) == {
        "RANGE_EXHAUSTED": "range 7000-7002 (3 numbers, 7001 held by Services) has no number left on any of 2 candidate"
        " nodes. Widen the range, or free ports"
    }


def test_a_pod_that_waits_for_room_gets_no_number_of_a_service() -> None:
    at = desk("7000", nodes=("n1",))
    at.grant(ask("a", "x:1", low=7000, high=7001))

    claim = at.grant(ask("b", "x:1", low=7000, high=7001, when_full=WhenFull.PENDING))

    assert (claim.node, [port.host_port for port in claim.ports]) == (None, [7001])


def test_a_range_that_services_hold_wholly_is_exhausted() -> None:
    assert desk("7000", "7001").refusal(ask("a", "x:1", low=7000, high=7001)) == {
        "RANGE_EXHAUSTED": "range 7000-7001 (2 numbers, 7000-7001 held by Services) has no number left on any of 2"
        " candidate nodes. Widen the range, or free ports"
    }


def test_a_pod_that_comes_back_does_not_get_a_number_that_a_service_took_meanwhile() -> None:
    at = Desk("n1")
    first = at.grant(ask("a", "x:1", low=7000, high=7009))
    at.observe(pods=[pod("a", "x:1=7000", at="n1", carried_id=first.id)])
    at.observe(services=[service("web", "7000")])

    assert at.numbers(ask("a", "x:1", low=7000, high=7009)) == [7001], "its predecessor still runs"
    assert list(at.refusal(ask("a", "x:1=7000", policy="Static"))) == ["HELD_BY_SERVICE"], "though it is its own number"


def test_a_number_is_free_again_when_the_service_gives_it_up() -> None:
    at = desk("7000")
    at.observe(services=[service("web", "7001")])
    assert at.numbers(ask("a", "x:1=7000", policy="Static")) == [7000]

    at.observe(gone_services=[("demo", "web")])
    assert at.numbers(ask("b", "x:1=7001", policy="Static")) == [7001]


def test_a_service_of_another_namespace_is_named_only_where_the_operator_allows_it() -> None:
    asked = ask("a", "x:1=7000", policy="Static", namespace="other")
    for discloses, words in ((False, "by a Service of another namespace (node port)"), (True, "by Service demo/web")):
        assert words in desk("7000", discloses_holders=discloses).refusal(asked)["HELD_BY_SERVICE"]


def test_a_pod_between_its_two_webhook_calls_is_refused_when_a_service_takes_its_number() -> None:
    at = Desk("n1")
    claim = at.grant(ask("a", "x:1", low=7000, high=7009))
    at.observe(services=[service("web", "7000")])
    again = ask("a", "x:7000=7000", low=7000, high=7009, host_network=True, carried_id=claim.id)

    with pytest.raises(Refused, match="Service demo/web"):
        at.ledger.drafts.readmit(again, at.now)


def conflicts(at: Desk) -> list[tuple[str, str, list[str]]]:
    """The owner, the kind, and the Services of each incident since the last call."""

    def told(incident: Incident) -> tuple[str, str, list[str]]:
        return str(incident.claim.owner), incident.kind.value, [holder.name for _, holder in incident.foreign]

    return [told(incident) for incident in at.ledger.take_incidents()]


def bound(at: Desk, name: str, *, where: str = "n1", **more: Any) -> ClaimPort:
    claim = at.grant(ask(name, "x:1=7000", policy="Static", constraints=on(where)))
    at.observe(pods=[pod(name, "x:1=7000", at=where, carried_id=claim.id, **more)])
    return claim.ports[0]


def test_who_has_the_number_of_a_later_service_keeps_it_and_is_told_once() -> None:
    at = Desk("n1", "n2", "n3")
    bound(at, "a")
    bound(at, "b", where="n2", own_network=True)  # the node maps the number: it is taken from it all the same
    planned = at.grant(ask("c", "x:1=7000", policy="Static"))
    assert (conflicts(at), at.ledger.claims.tally().node_port_conflicts) == ([], 0)

    at.observe(services=[service("web", "7000")])
    assert conflicts(at) == [("Pod demo/a", "NodePortConflict", ["web"]), ("Pod demo/b", "NodePortConflict", ["web"])]
    assert at.ledger.claims.tally().node_port_conflicts == 3, "the plan is one as well"
    assert at.ledger.claims.get(planned.id) == planned, "no plan is moved for what holds on every node"

    at.observe(pods=[pod("c", "x:1=7000", at="n3", carried_id=planned.id), pod("a", "x:1=7000", at="n1", priority=5)])
    assert conflicts(at) == [("Pod demo/c", "NodePortConflict", ["web"])], "when it is seen, and a not again"


def test_a_service_that_takes_a_number_again_is_told_again() -> None:
    at = Desk("n1")
    bound(at, "a")
    for ports, told in (("7000", 1), ("7000", 0), ("7001", 0), ("7000", 1)):
        at.observe(services=[service("web", ports)])
        assert (ports, len(conflicts(at))) == (ports, told)
    assert at.ledger.claims.tally().node_port_conflicts == 1

    at.observe(gone_pods=[pod("a").uid])
    assert at.ledger.claims.tally().node_port_conflicts == 0


def test_a_process_is_no_conflict_of_a_service() -> None:
    at = desk("7000")
    at.observe(reports=[report("n1", "kube-proxy:7000")])

    assert (conflicts(at), at.ledger.claims.tally().node_port_conflicts) == ([], 0)


def test_pods_that_never_asked_and_leases_are_in_conflict_too() -> None:
    at = Desk("n1", "n2")
    at.observe(pods=[pod("outsider", "x:7000", at="n1")])
    at.grant(lease("relay", "x:1=7000", policy="Static", constraints=on("n2")))
    at.observe(services=[service("web", "7000")])

    assert conflicts(at) == [
        ("Pod demo/outsider", "NodePortConflict", ["web"]),
        ("Service lessee/relay", "NodePortConflict", ["web"]),
    ]
    assert at.ledger.claims.tally().node_port_conflicts == 2


def test_a_number_of_one_node_is_counted_once_and_everybody_who_has_it_is_told() -> None:
    at = Desk("n1")
    at.observe(pods=[pod(f"p{n}", f"x:7000@10.0.0.{n}", at="n1") for n in (1, 2)], services=[service("web", "7000")])

    assert [owner for owner, _, _ in conflicts(at)] == ["Pod demo/p1", "Pod demo/p2"]
    assert at.ledger.claims.tally().node_port_conflicts == 1


def test_a_number_on_many_nodes_is_told_some_at_a_time() -> None:
    nodes = [node(f"n{n:04}") for n in range(2000)]
    at = Desk(*nodes)
    at.observe(pods=[pod(f"p{n}", "x:7000", at=f"n{n:04}") for n in range(2000)])
    at.observe(services=[service("web", "7000")])

    told = [conflicts(at)]
    while at.ledger.has_more_to_replan:
        at.ledger.replan()
        told.append(conflicts(at))

    assert sum(map(len, told)) == 2000
    assert max(map(len, told)) <= 1000
    assert at.ledger.claims.tally().node_port_conflicts == 2000


def test_many_numbers_on_many_nodes_are_found_a_part_at_a_time() -> None:
    at = Desk(*(node(f"n{n:04}") for n in range(200)))
    numbers = range(7000, 7020)
    at.observe(pods=[pod(f"p{n}", *(f"x:{number}" for number in numbers), at=f"n{n:04}") for n in range(200)])
    conflicts(at)

    def told_in(step: Callable[[], None]) -> tuple[int, int]:
        spent = instructions(step)
        return len(conflicts(at)), spent

    steps = [told_in(lambda: at.observe(services=[service("web", *map(str, numbers))]))]
    while at.ledger.has_more_to_replan:
        steps.append(told_in(at.ledger.replan))

    assert sum(told for told, _ in steps) == 200, "each Pod is told once, of all of its numbers"
    assert max(spent for _, spent in steps) < 2_000_000


def test_a_pod_and_a_service_that_come_together_are_told_once() -> None:
    at = Desk("n1")
    at.observe(pods=[pod("a", "x:7000", at="n1")], services=[service("web", "7000")])

    assert conflicts(at) == [("Pod demo/a", "NodePortConflict", ["web"])]
    assert IncidentKind.NODE_PORT_CONFLICT.value == "NodePortConflict"


def test_who_begins_to_serve_finds_again_what_it_told_nobody() -> None:
    at = desk("7000", "7001")
    at.observe(pods=[pod("a", "x:7000", at="n1"), pod("b", "x:7001", at="n2"), pod("c", "x:7002", at="n2")])
    both = [("Pod demo/a", "NodePortConflict", ["web"]), ("Pod demo/b", "NodePortConflict", ["web"])]
    assert (conflicts(at), conflicts(at)) == (both, [])

    at.ledger.find_node_ports_again()
    at.ledger.look_for_room()
    assert (conflicts(at), conflicts(at)) == (both, [])


# -- blocks


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        pytest.param(ask("a", "x:1*10", low=7000, high=7039), 7010, id="one of whose numbers a Service holds"),
        pytest.param(ask("a", "x:1/UDP*10", low=7000, high=7039), 7000, id="of another protocol"),
        pytest.param(ask("a", "x:1*10", "y:2", low=7000, high=7039), 7010, id="beside a single port"),
    ],
)
def test_a_block_steps_over_what_a_service_holds(asked: Ask, first: int) -> None:
    assert desk("7005").numbers(asked)[0] == first


def test_a_block_finds_no_room_where_a_service_holds_a_number_of_each() -> None:
    refusal = desk("7005", "7014").refusal(ask("a", "x:1*10", low=7000, high=7019))

    assert list(refusal) == ["RANGE_EXHAUSTED"]
    assert "7005,7014 held by Services" in refusal["RANGE_EXHAUSTED"]


def test_where_no_run_is_free_everywhere_a_block_steps_over_a_service_too() -> None:
    at = desk("7015", nodes=("n1", "n2"))
    for name, number, where in (("a", 7000, "n1"), ("b", 7025, "n2")):
        at.grant(ask(name, f"x:1={number}", policy="Static", constraints=on(where)))

    firsts = [at.numbers(ask(name, "x:1*10", low=7000, high=7029))[0] for name in ("c", "d")]

    assert not any(first <= 7015 < first + 10 for first in firsts), firsts


def test_a_block_with_a_fixed_start_is_refused_for_a_number_inside_of_it() -> None:
    refusal = desk("7005").refusal(ask("a", "x:1=7000*10", policy="Static"))

    assert list(refusal) == ["HELD_BY_SERVICE"]
    assert "7005/TCP is held on every node by Service demo/web (node port)" in refusal["HELD_BY_SERVICE"]


def test_who_has_a_block_is_told_of_a_service_that_takes_a_number_of_it() -> None:
    at = Desk("n1")
    claim = at.grant(ask("a", "x:1*10", low=7000, high=7009))
    at.observe(pods=[pod("a", "x:1=7000*10", at="n1", carried_id=claim.id)])
    waiting = at.grant(ask("b", "x:1*10", low=7000, high=7009, when_full=WhenFull.PENDING))
    assert waiting.node is None

    at.observe(services=[service("web", "7005")])

    assert conflicts(at) == [("Pod demo/a", "NodePortConflict", ["web"])]
    assert at.ledger.claims.tally().node_port_conflicts == 2


def test_of_many_numbers_that_services_hold_a_refusal_names_the_first_and_counts_the_others() -> None:
    at = desk(*(str(number) for number in range(30000, 32767, 2)))

    refusal = at.refusal(ask("a", "x:1*2", low=30000, high=32767))["RANGE_EXHAUSTED"]

    assert "30036,30038 and 1364 more held by Services" in refusal
    assert len(refusal) < 500
