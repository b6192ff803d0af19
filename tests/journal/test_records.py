"""Claims as lines of JSON: what comes back, what is one object for many claims, and what is no record."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from allocator.core.candidates import ANYWHERE, Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, PodUid, State
from allocator.core.ports import Protocol
from allocator.journal import tables
from allocator.journal.tables import decode_claim, encode_claim

RESERVED = Claim(
    id=ClaimId("a1"),
    owner=Owner(namespace="demo", generate_name="web-", controller_uid="rs-1"),
    state=State.RESERVED,
    ports=(
        ClaimPort(container="main", name="http", container_port=80, host_port=7000),
        ClaimPort(container="main", name="dns", protocol=Protocol.UDP, container_port=53, host_port=7001),
    ),
    created=1.5,
    constraints=Constraints(
        selector=(("disk", "ssd"),),
        affinity=(
            Term(
                expressions=(Requirement(key="zone", operator="In", values=("a", "b")),),
                fields=(Requirement(key="metadata.name", operator="NotIn", values=("n9",)),),
            ),
        ),
        tolerations=(Toleration(key="spot", operator="Exists", value="", effect="NoSchedule"),),
    ),
    node=NodeName("n1"),
    expires=31.5,
    range=(7000, 8000),
    priority=-5,
    may_preempt=True,
)
BOUND = Claim(
    id=ClaimId("b2"),
    owner=Owner(namespace="demo", name="db-0"),
    state=State.BOUND,
    ports=(ClaimPort(container="main", host_port=65535, host_ip="10.0.0.1", appeared=True),),
    created=2.0,
    constraints=Constraints(node_name=NodeName("n1")),
    node=NodeName("n1"),
    pod_uid=PodUid("uid-1"),
    settled_at=3.25,
    is_terminating=True,
)
WARNED = replace(BOUND, own_network=True, warnings="MANY_PORTS,UNKNOWN_ANNOTATION")
LEASED = Claim(
    id=ClaimId("c3"),
    owner=Owner(kind="Service", description="relay of the north"),
    state=State.LEASED,
    ports=(ClaimPort(host_port=1, protocol=Protocol.SCTP),),
    created=0.0,
    node=NodeName("n1"),
    expires=3600.0,
)


BLOCK = replace(LEASED, ports=(ClaimPort(name="media", protocol=Protocol.UDP, host_port=20000, count=1000),))


@pytest.mark.parametrize(
    "claim", [RESERVED, BOUND, LEASED, WARNED, BLOCK], ids=["RESERVED", "BOUND", "LEASED", "warned", "a block"]
)
def test_a_claim_comes_back_as_it_was(claim: Claim) -> None:
    assert decode_claim(encode_claim(claim)) == claim


def test_a_record_of_the_first_version_can_be_read() -> None:
    text = (
        '{"id":"b2","state":"BOUND","owner":{"kind":"Pod","namespace":"demo","name":"db-0"},"ports":[{"protocol":"TCP",'
        '"host_port":65535,"container":"main","host_ip":"10.0.0.1","appeared":true}],"created":2,"constraints":'
        '{"node_name":"n1"},"node":"n1","pod_uid":"uid-1","settled_at":3.25,"is_terminating":true}'
    )

    assert decode_claim(text) == BOUND


def test_the_record_of_a_block_is_as_long_as_that_of_one_number_but_for_its_count() -> None:
    single = replace(BLOCK, ports=(replace(BLOCK.ports[0], count=1),))

    assert encode_claim(BLOCK) == encode_claim(single).replace('"name":"media"', '"name":"media","count":1000')
    assert len(encode_claim(BLOCK)) <= 1.2 * len(encode_claim(single))


def test_what_many_claims_have_alike_is_one_object() -> None:
    one, other = (decode_claim(encode_claim(RESERVED)) for _ in range(2))

    assert one.constraints is other.constraints
    assert one.range is other.range
    assert one.node is other.node
    for name in ("kind", "namespace", "generate_name", "controller_uid"):
        assert getattr(one.owner, name) is getattr(other.owner, name)
    for name in ("container", "name"):
        assert getattr(one.ports[0], name) is getattr(other.ports[0], name)
    assert decode_claim(encode_claim(LEASED)).constraints is ANYWHERE


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("[]", id="no object"),
        pytest.param('{"id":"a"}', id="half of one"),
        pytest.param(encode_claim(LEASED).replace('"c3"', "3"), id="an id that is a number"),
        pytest.param(encode_claim(LEASED).replace('"LEASED"', '"LOST"'), id="a state that there is not"),
        pytest.param(encode_claim(LEASED).replace('"SCTP"', '"IP"'), id="a protocol that there is not"),
        pytest.param(encode_claim(LEASED).replace('"host_port":1', '"host_port":0'), id="port 0"),
        pytest.param(encode_claim(LEASED).replace('"host_port":1', '"host_port":65536'), id="port 65536"),
        pytest.param(encode_claim(LEASED).replace('"host_port":1', '"host_port":"1"'), id="a port that is text"),
        pytest.param(encode_claim(BLOCK).replace("1000", "1025"), id="a block that is too long"),
        pytest.param(encode_claim(BLOCK).replace("1000", "0"), id="a block of no number"),
        pytest.param(encode_claim(BLOCK).replace("20000", "65000"), id="a block beyond the last number"),
        pytest.param(encode_claim(RESERVED).replace("[7000,8000]", "[7000]"), id="half of a range"),
        pytest.param(encode_claim(RESERVED).replace('"Exists",', ""), id="half of a toleration"),
        pytest.param(encode_claim(RESERVED).replace('"affinity":[', '"affinity":[1,'), id="a term that is a number"),
    ],
)
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no port|are no block|not a claim record|not enough values"):
        decode_claim(text)


def test_the_constraints_that_are_kept_to_be_one_object_are_bounded_in_bytes() -> None:
    for number in range(400):
        wide = Constraints(selector=tuple((f"{number}-{at:03}", "x" * 100) for at in range(200)))
        assert decode_claim(encode_claim(replace(BOUND, constraints=wide))).constraints == wide
    assert tables._KEPT.size <= 16 << 20
