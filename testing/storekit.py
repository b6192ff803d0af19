"""Claims by chance, and whether the indexes over claims are what the claims say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, PodUid, State
from allocator.core.ports import PortKey, Protocol
from allocator.core.store import ClaimStore

LOW, HIGH = 200, 2_400
SETS = (Constraints(), Constraints(selector=(("zone", "a"),)), Constraints(node_name=NodeName("n1")))
STATES = (State.LEASED, State.BOUND, State.CONFIRMED)
ADDRESSES = ("", "10.0.0.1")
PRIORITIES = (0, 5, 9)
COUNTS = (1, 1, 1, 1, 4, 300)
INDICES = (
    "by_pod", "by_controller", "by_shape", "unsettled", "portless", "leases", "unplanned", "wanting",
    "unplanned_within", "ranges", "unmanaged_ports", "reserved_in", "leased_in", "_shared",
)  # fmt: skip


def a_claim(chance: Random, number: int) -> Claim:
    return Claim(
        id=ClaimId(f"c{number}"),
        owner=Owner(namespace="demo", name=f"c{number}"),
        state=chance.choice(STATES),
        ports=tuple(
            ClaimPort(
                container="c",
                container_port=at,
                host_port=chance.choice((chance.randint(250, 262), chance.randint(LOW, HIGH))),
                protocol=chance.choice((Protocol.TCP, Protocol.UDP)),
                host_ip=chance.choice(ADDRESSES),
                count=chance.choice(COUNTS),
            )
            for at in range(chance.randint(1, 6))
        ),
        created=0.0,
        constraints=chance.choice(SETS),
        node=NodeName(f"n{chance.randrange(4)}"),
        pod_uid=PodUid(f"c{number}"),
        settled_at=0.0,
        priority=chance.choice(PRIORITIES),
        is_terminating=chance.random() < 0.2,
    )


def assert_in_step(store: ClaimStore) -> None:
    """The indexes are those that the claims make: nothing is left behind, and no counter drifts."""
    anew = ClaimStore()
    for claim in store.claims.values():
        anew.insert(claim)
    for name in INDICES:
        assert getattr(store, name) == getattr(anew, name), name
    assert _names(store) == _names(anew)
    assert +store.states == +anew.states
    assert list(store.ids) == list(anew.ids)
    for name in map(NodeName, store.nodes.names):
        held, expected = ({(key, id(claim)) for key, claim in each.ports.port_map(name)} for each in (store, anew))
        assert held == expected, f"{name}: the very claims of the store"
    for claim in store.claims.values():
        assert _answers(store, claim) == _answers(anew, claim), claim


def _answers(store: ClaimStore, claim: Claim) -> object:
    """What the maps of each kind of holder say of a claim's ports, and its candidate set of those that float there."""
    ports, sets, candidates = store.ports, store.sets, store.sets.of(claim.constraints)
    staying: list[Callable[[PortKey], int]] = [partial(ports.staying, rank=rank) for rank in PRIORITIES]
    kinds = [ports.planned, ports.leased, ports.settled, *staying]
    nodes = [{*store.nodes.names_of(kind(key))} for key in claim.keys for kind in kinds]
    floating = [candidates.floating_numbers(protocol, LOW, HIGH) for protocol in Protocol]
    wanting = [{*store.wanting_any(key)} for key in claim.keys]
    return nodes, floating, candidates.floats, candidates.roaming, sets.highest_rank, wanting


def _names(store: ClaimStore) -> dict[tuple[str, str], set[ClaimId]]:
    """In any order: that of claims of one name says nothing."""
    return {(space, name): set(ids) for space, names in store._by_name.items() for name, ids in names.items()}
