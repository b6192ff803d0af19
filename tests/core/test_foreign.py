"""Holders that have no allocation: what they are called, and the numbers that Services hold on every node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.core.foreign import ForeignHolder, ForeignKind, NodePort, ObservedService, ServicePorts, words_of
from allocator.core.ports import PortKey, Protocol, Slot, slot_of

WEB = ForeignHolder(kind=ForeignKind.SERVICE, namespace="shop", name="web", uid="u-web")
HEALTH = ForeignHolder(kind=ForeignKind.SERVICE, namespace="shop", name="web", uid="u-web", is_health_check=True)


@pytest.mark.parametrize(
    ("holder", "said"),
    [
        pytest.param(WEB, "Service shop/web (node port)", id="a node port"),
        pytest.param(HEALTH, "Service shop/web (health check node port)", id="a health check node port"),
        pytest.param(ForeignHolder(kind=ForeignKind.PROCESS, name="sshd", user=0), "process sshd", id="a process"),
        pytest.param(
            ForeignHolder(kind=ForeignKind.PROCESS, user=0), "a process of user 0", id="a process by its user"
        ),
        pytest.param(ForeignHolder(kind=ForeignKind.PROCESS), "a process", id="a process of which nothing is known"),
        pytest.param(ForeignHolder(kind=ForeignKind.RESERVED, name="kubelet"), "reserved for kubelet", id="reserved"),
        pytest.param(ForeignHolder(kind=ForeignKind.RESERVED), "reserved in this cluster", id="reserved for nobody"),
    ],
)
def test_a_foreign_holder_is_called_what_it_is(holder: ForeignHolder, said: str) -> None:
    assert words_of(holder, asker="shop", discloses=False) == said


@pytest.mark.parametrize(
    ("asker", "discloses", "said"),
    [
        ("shop", False, "Service shop/web (node port)"),
        ("other", True, "Service shop/web (node port)"),
        ("other", False, "a Service of another namespace (node port)"),
        ("", False, "a Service of another namespace (node port)"),
    ],
    ids=["its own namespace", "another one, where that is allowed", "another one", "nobody's"],
)
def test_a_service_of_another_namespace_is_named_where_the_operator_allows_it(
    asker: str, discloses: bool, said: str
) -> None:
    assert words_of(WEB, asker=asker, discloses=discloses) == said


def service(name: str, *ports: NodePort, uid: str = "") -> ObservedService:
    return ObservedService(namespace="shop", name=name, uid=uid or f"u-{name}", ports=ports)


def node_port(number: int, protocol: Protocol = Protocol.TCP, *, is_health_check: bool = False) -> NodePort:
    return NodePort(protocol=protocol, number=number, is_health_check=is_health_check)


def test_a_service_holds_its_numbers_by_protocol_until_it_gives_them_up() -> None:
    ports = ServicePorts()
    assert (bool(ports.holders), ports.within(Protocol.TCP, 1, 65535)) == (False, 0)

    new = ports.put(service("web", node_port(30080), node_port(30443, Protocol.UDP)))
    assert new == [slot_of(Protocol.TCP, 30080), slot_of(Protocol.UDP, 30443)]
    assert ports.within(Protocol.TCP, 30079, 30443) == 1 << 1
    assert ports.within(Protocol.UDP, 30443, 30443) == 1
    assert ports.holding([PortKey("10.0.0.1", Protocol.TCP, 30080), PortKey("0.0.0.0", Protocol.UDP, 30080)]) == [
        (PortKey("10.0.0.1", Protocol.TCP, 30080), WEB)
    ]

    assert ports.put(service("web", node_port(30080), node_port(30081, is_health_check=True))) == [
        slot_of(Protocol.TCP, 30081)
    ]
    assert ports.holders == {slot_of(Protocol.TCP, 30080): (WEB,), slot_of(Protocol.TCP, 30081): (HEALTH,)}
    assert ports.within(Protocol.UDP, 1, 65535) == 0

    ports.drop(("shop", "web"))
    ports.drop(("shop", "never"))
    assert (ports.holders, ports.within(Protocol.TCP, 1, 65535)) == ({}, 0)


def test_of_a_block_the_first_number_is_told_that_a_service_holds() -> None:
    ports = ServicePorts()
    ports.put(service("web", node_port(30050), node_port(30070), node_port(30040, Protocol.UDP)))

    def told(first: int, length: int) -> list[int]:
        return [key.number for key, _ in ports.holding([PortKey("0.0.0.0", Protocol.TCP, first, length)])]

    assert [told(30000, 100), told(30000, 51), told(30000, 50), told(30051, 20), told(30071, 9)] == [
        [30050], [30050], [], [30070], [],
    ]  # fmt: skip


def test_a_service_without_node_ports_is_not_kept() -> None:
    ports = ServicePorts()
    ports.put(service("web"))
    assert ports.names() == []

    ports.put(service("web", node_port(30080)))
    assert ports.names() == [("shop", "web")]
    ports.put(service("web"))
    assert (ports.names(), ports.holders) == ([], {})


def test_of_two_services_on_one_number_the_other_still_holds_it() -> None:
    ports = ServicePorts()
    ports.put(service("a", node_port(30080)))
    assert ports.put(service("b", node_port(30080))) == [slot_of(Protocol.TCP, 30080)]  # news: another holder
    ports.drop(("shop", "a"))

    assert [h.name for h in ports.holders[slot_of(Protocol.TCP, 30080)]] == ["b"]
    assert ports.within(Protocol.TCP, 30080, 30080) == 1


numbers = st.lists(st.tuples(st.sampled_from(Protocol), st.integers(30000, 30007)), max_size=3, unique=True)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.none() | numbers), max_size=12))
def test_whatever_comes_and_goes_the_sets_are_those_of_the_holders(
    steps: list[tuple[str, list[tuple[Protocol, int]] | None]],
) -> None:
    ports, there = ServicePorts(), dict[str, list[tuple[Protocol, int]]]()
    for name, held in steps:
        if held is None:
            there.pop(name, None)
            ports.drop(("shop", name))
        else:
            there[name] = held
            ports.put(service(name, *(node_port(number, protocol) for protocol, number in held)))

    wanted: dict[Slot, set[str]] = {}
    for name, held in there.items():
        for protocol, number in held:
            wanted.setdefault(slot_of(protocol, number), set()).add(name)
    assert {slot: {h.name for h in holders} for slot, holders in ports.holders.items()} == wanted
    for protocol in Protocol:
        some = {number for held in there.values() for each, number in held if each is protocol}
        assert ports.within(protocol, 30000, 30007) == sum(1 << (number - 30000) for number in some)
