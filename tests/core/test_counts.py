"""What an index has counted as things came and went is what one counts that sees them for the first time."""

from __future__ import annotations

from random import Random

import pytest

from allocator.core.candidates import Node
from allocator.core.claims import Claim, ClaimId
from allocator.core.index import candidate_sets
from allocator.core.index import ports as port_index
from allocator.core.index.ports import PortIndex
from allocator.core.ports import PortKey, Protocol
from testing.kit import node
from testing.storekit import HIGH, LOW, SETS, a_claim


def counts(index: PortIndex) -> list[object]:
    """All that is said of numbers and nodes; the numbers first, as they make counts."""
    sets = [index.sets.of(within) for within in SETS]
    numbers = [
        (which(candidates, protocol, low, HIGH))
        for candidates in sets
        for protocol in (Protocol.TCP, Protocol.UDP)
        for low in (LOW, 300)
        for which in (index.numbers.taken, index.numbers.stuck, index.numbers.full, index.leased_numbers)
    ]
    loads = [
        [plane for plane in index.numbers.loads_and_stuck(candidates, protocol, LOW, HIGH)[0] if plane]
        for candidates in sets
        for protocol in (Protocol.TCP, Protocol.UDP)
    ]
    keys = [
        PortKey(ip, protocol, n) for n in range(250, 263) for ip in ("0.0.0.0", "10.0.0.1") for protocol in Protocol
    ]
    nodes = [
        sorted(index.nodes.names_of(found))
        for key in keys
        for found in (
            index.conflicting(key),
            index.settled(key),
            index.planned(key),
            *(index.staying(key, rank) for rank in (None, 0, 5, 9, 10)),
        )
    ]
    return [numbers, loads, nodes, [index.some_leave(rank) for rank in (None, 0, 5, 9, 10)]]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("many", [pytest.param(512, id="few ports"), pytest.param(4, id="many ports")])
@pytest.mark.parametrize("recounted", [pytest.param(1_024, id="recounted"), pytest.param(3, id="forgotten")])
@pytest.mark.parametrize("together", [pytest.param(16, id="each port"), pytest.param(2, id="ports together")])
def test_counts_that_are_kept_are_those_of_an_index_that_begins_anew(
    seed: int, many: int, recounted: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_index, "MANY_PORTS", many)
    for module in (candidate_sets, port_index):
        monkeypatch.setattr(module, "MANY_KEYS", together)
    monkeypatch.setattr(candidate_sets, "MOST_RECOUNTED", recounted)
    claims: dict[ClaimId, Claim] = {}
    chance, index = Random(seed), PortIndex(claims)
    nodes: dict[str, Node] = {}
    for step in range(60):
        if chance.random() < 0.25:
            changed = node(f"n{chance.randrange(4)}", labels={"zone": chance.choice("ab")})
            nodes[changed.name] = changed
            index.sets.put_node(changed)
        elif claims and chance.random() < 0.4:
            gone = chance.choice(list(claims))
            index.leave(claims[gone], is_settled=claims[gone].is_settled)
            del claims[gone]
        else:
            claim = a_claim(chance, step)
            claims[claim.id] = claim
            index.stand(claim, is_settled=claim.is_settled)
        if step % 7 == 0:
            counts(index)  # so that there is something that is kept
    anew = PortIndex(claims)
    for each in index.nodes.names:  # positions are alike, so that sets of nodes are
        anew.sets.put_node(nodes.get(each) or node(each))
        if each not in nodes:
            anew.sets.drop_node(each)
    for claim in claims.values():
        anew.stand(claim, is_settled=claim.is_settled)
    assert counts(index) == counts(anew)
