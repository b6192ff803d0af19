"""Numbers by policy, as far as the request decides; and everything that can be wrong with it."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import Any

import pytest
from msgspec.structs import replace

from allocator.core.asks import Ask, Refused
from allocator.core.kept import SizedCache
from allocator.core.place import policies
from allocator.core.place.policies import POLICIES, groups_of, number_groups, with_unset_defaults
from allocator.core.ports import span
from allocator.core.reserved import ReservedNumbers, parse_reserved
from hostport.contract import Code, Reason
from hostport.contract.limits import MOST_AVOIDED
from testing.kit import ask, port

RESERVED = parse_reserved("22,6443")


def numbers(*ports: str, **fields: Any) -> list[int]:
    """The number of each port; 0 where Dynamic has yet to search."""
    asked = ask("web-0", *ports, **fields)
    found = number_groups(with_unset_defaults(asked), RESERVED, is_pod=asked.owner.is_pod)
    by_member = {member: group.number for group in found for member in group.members}
    return [by_member[position] for position in range(len(asked.ports))]


def index(at: int | None, **fields: Any) -> dict[str, Any]:
    return {"policy": "Index", "index": at, "low": 10000, "high": 11000, **fields}


@pytest.mark.parametrize(
    ("fields", "ports", "expected"),
    [
        pytest.param(index(0), ["primary:8080", "metrics:9090"], [10000, 10100], id="Index of replica 0"),
        pytest.param(index(1), ["primary:8080", "metrics:9090"], [10001, 10101], id="Index of replica 1"),
        pytest.param(index(2, stride=10), ["a:1", "b:2", "d:3"], [10002, 10012, 10022], id="Index with a stride"),
        pytest.param(index(150), ["a:1"], [10150], id="Index beyond the stride is fine with one port"),
        pytest.param(index(0), ["a:53", "b:53/UDP", "d:80"], [10000, 10000, 10100], id="a group is one number"),
        pytest.param(index(0), ["a:1=5555", "b:2"], [5555, 10100], id="a set port keeps its number and its place"),
        pytest.param(index(150), ["a:1=5555", "b:2"], [5555, 10250], id="and runs into nothing beyond the stride"),
        pytest.param(index(150), ["a:1", "b:2=5555", "d:3"], [10150, 5555, 10350], id="nor does what stands around it"),
        pytest.param(index(None), ["a:1=5555"], [5555], id="no index needed where every number is set"),
        pytest.param(index(0), ["a:53=5353", "b:53/UDP"], [5353, 5353], id="a set number is the group's"),
        pytest.param(index(0), ["a:53", "b:53/UDP=5353"], [5353, 5353], id="whichever member has it"),
        pytest.param(index(0), ["a:53=1053", "b:53/UDP=2053"], [1053, 2053], id="two set numbers are two groups"),
        pytest.param(
            index(0, host_network=True), ["a:8080=8080", "b:9090=7070"], [10000, 7070],
            id="hostPort equal to containerPort is the API server's default under hostNetwork",
        ),
        pytest.param({"policy": "Dynamic"}, ["a:1", "b:2=18080"], [0, 18080], id="Dynamic leaves numbers open"),
        pytest.param(
            {"policy": "Dynamic", "low": 30, "high": 31}, ["a:1", "a:1/UDP", "b:2", "d:3=32"], [0, 0, 0, 32],
            id="Dynamic over a range that is just large enough",
        ),
        pytest.param({"policy": "Passthrough"}, ["a:8080", "b:53", "d:53/UDP"], [8080, 53, 53], id="Passthrough"),
        pytest.param({"policy": "Passthrough"}, ["a:80=8080"], [8080], id="Passthrough keeps a set number"),
        pytest.param({"policy": "Passthrough"}, ["a:6443"], [6443], id="Passthrough may name a reserved number"),
        pytest.param({"policy": "Static"}, ["a:80=18080", "b:81=18081"], [18080, 18081], id="Static"),
        pytest.param({"policy": "Static", "host_network": True}, ["a:80=80"], [80], id="Static pins under hostNetwork"),
        pytest.param({"policy": "Static"}, ["a:80=500", "b:81/UDP=500"], [500, 500], id="protocols do not collide"),
        pytest.param(
            {"policy": "Static"}, ["a:80=500@10.0.0.1", "b:81=500@10.0.0.2"], [500, 500], id="addresses neither"
        ),
    ],
)  # fmt: skip
def test_a_policy_numbers_the_ports(fields: dict[str, Any], ports: list[str], expected: list[int]) -> None:
    assert numbers(*ports, **fields) == expected


@pytest.mark.parametrize(
    ("fields", "ports", "reason", "words"),
    [
        pytest.param(index(None), ["a:1"], Reason.NO_INDEX, "Policy Dynamic needs none", id="no index"),
        pytest.param(index(100), ["a:1", "b:2"], Reason.INDEX_EXCEEDS_STRIDE, "stride 100", id="index at the stride"),
        pytest.param(
            index(200), ["a:1", "b:2=5555", "d:3"], Reason.INDEX_EXCEEDS_STRIDE,
            "index 200 is not below 2 x stride 100, so that its ports would run into those of the next port of index 0",
            id="index at the stride of the port after the next",
        ),
        pytest.param(
            index(5, high=10003), ["a:1"], Reason.NUMBER_BEYOND_RANGE,
            "port a (1/TCP) of container c: range.min 10000 + index 5 + stride 100 x 0 = 10005 is beyond range.max 10003",
            id="beyond max-port",
        ),
        pytest.param(
            index(5, low=65531, high=65535), ["a:1"], Reason.NUMBER_BEYOND_RANGE,
            "65536 is beyond the highest port, 65535. Lower range.min, the index or stride", id="beyond the last port",
        ),
        pytest.param(
            index(5, low=65531, high=65534), ["a:1"], Reason.NUMBER_BEYOND_RANGE, "beyond the highest port, 65535. Lower",
            id="beyond the last port, and max-port",
        ),
        pytest.param(index(0, low=6443, high=7000), ["a:1"], Reason.PORT_RESERVED, "6443 is reserved", id="reserved"),
        pytest.param(index(0, low=9000, high=8000), ["a:1"], Reason.RANGE_INVERTED, "9000", id="min above max"),
        pytest.param(
            {"policy": "Dynamic", "low": 22, "high": 22}, ["a:1"], Reason.RANGE_RESERVED, "reserved", id="all reserved"
        ),
        pytest.param(
            {"policy": "Dynamic", "low": 30, "high": 38, "avoid": (30,)}, ["a:1*8", "b:2"], Reason.RANGE_TOO_SMALL,
            "range 30-38 has 8 numbers that may be given to these ports, which want 9, whoever holds what. Raise range.max,"
            " or ask for fewer", id="fewer than a block and a port have",
        ),
        pytest.param(
            {"policy": "Dynamic", "low": 30, "high": 40}, ["a:1*8", "b:2*4"], Reason.RANGE_TOO_SMALL, "which want 12",
            id="fewer than two blocks have",
        ),
        pytest.param(
            {"policy": "Dynamic", "low": 65530, "high": 65535}, ["a:1*8"], Reason.RANGE_TOO_SMALL,
            "whoever holds what. Lower range.min, or ask for a smaller block", id="fewer than a block has, up to the end",
        ),
        pytest.param({"policy": "Static"}, ["a:80"], Reason.HOST_PORT_MISSING, "port a (80/TCP)", id="Static unset"),
        pytest.param(
            {"policy": "Static"}, ["a:80=80", "b:81"], Reason.HOST_PORT_MISSING,
            "port b (81/TCP) of container c has no hostPort. Set it, or use policy Passthrough, which keeps those that are set",
            id="Static with some of them",
        ),
        pytest.param(
            {"policy": "Static"}, ["a:80=500", "b:81=500"], Reason.OWN_PORTS_COLLIDE, "500/TCP", id="own ports collide"
        ),
        pytest.param(
            {"policy": "Static"}, ["a:80=500", "b:81=500@10.0.0.1"], Reason.OWN_PORTS_COLLIDE, "500/TCP on 10.0.0.1",
            id="the wildcard collides with an address",
        ),
        pytest.param(
            {"policy": "Passthrough"}, ["c1/a:80", "c2/b:80"], Reason.OWN_PORTS_COLLIDE, "80/TCP",
            id="two containers on one containerPort",
        ),
        pytest.param(
            {"policy": "Passthrough"}, ["a:0"], Reason.CONTAINER_PORT_MISSING, "Passthrough", id="Passthrough of nothing"
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_own_reason(
    fields: dict[str, Any], ports: list[str], reason: Reason, words: str
) -> None:
    with pytest.raises(Refused) as refused:
        numbers(*ports, **fields)

    (mistake,) = refused.value.mistakes
    assert (mistake.reason, Reason[mistake.reason].code) == (reason, Code.INVALID_ARGUMENT)
    assert words in mistake.message


def test_several_mistakes_are_reported_together() -> None:
    with pytest.raises(Refused) as refused:
        numbers("a:1", "b:2", **index(100, high=10150))

    assert [m.reason for m in refused.value.mistakes] == [Reason.INDEX_EXCEEDS_STRIDE, Reason.NUMBER_BEYOND_RANGE]


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        pytest.param(["a:53", "b:53/UDP", "c2/e:53/UDP"], [([0, 1], 0), ([2], 0)], id="of one container"),
        pytest.param(["a:80", "b:81", "d:80"], [([0, 2], 0), ([1], 0)], id="one socket under two names"),
        pytest.param(["a:80", "b:80=90"], [([0, 1], 90)], id="the number of one name is that of the other"),
        pytest.param(["a:80=90", "b:80=91", "d:80"], [([0, 2], 90), ([1], 91)], id="two numbers are two groups"),
        pytest.param(["a:80@10.0.0.1", "b:80@10.0.0.2"], [([0, 1], 0)], id="on two addresses"),
    ],
)
def test_ports_of_one_container_with_one_number_are_a_group(
    ports: list[str], expected: list[tuple[list[int], int]]
) -> None:
    assert groups_of(ask("web-0", *ports)) == expected


def test_one_socket_under_two_names_does_not_collide_with_itself() -> None:
    assert numbers("a:80=500", "b:80=500", policy="Static") == [500, 500]


def test_what_the_pods_own_probes_name_is_no_number_for_it() -> None:
    with pytest.raises(Refused) as refused:
        numbers("a:1", policy="Dynamic", low=22, high=24, avoid=(23, 24))

    (mistake,) = refused.value.mistakes
    assert mistake.reason is Reason.RANGE_RESERVED
    assert mistake.message == (
        "every number of range 22-24 is reserved in this cluster (22) or named by the Pod's own probes or hooks (23-24)."
        " Choose another range"
    )


def test_what_was_answered_to_a_pod_without_such_probes_is_no_answer_to_one_with_them() -> None:
    assert numbers("a:1", policy="Dynamic", low=25, high=26) == [0]

    with pytest.raises(Refused) as refused:
        numbers("a:1", policy="Dynamic", low=25, high=26, avoid=(25, 26))

    (mistake,) = refused.value.mistakes
    assert mistake.reason is Reason.RANGE_RESERVED


def test_a_number_of_an_earlier_life_counts_as_unset_where_the_policy_chooses() -> None:
    former = replace(port("a:8080=7002"), is_former=True)

    def given(**fields: Any) -> int:
        (group,) = number_groups(
            with_unset_defaults(replace(ask("web-0", **fields), ports=(former,))), RESERVED, is_pod=True
        )
        return group.number

    assert (given(**index(1)), given(policy="Dynamic"), given(policy="Static")) == (10001, 0, 7002)


def test_the_range_bounds_only_what_the_policy_computes() -> None:
    assert numbers("a:80=18080", policy="Static", low=1, high=2) == [18080]
    assert span(1, 2) == 0b110


@pytest.mark.parametrize(
    ("fields", "ports", "reserved"),
    [
        pytest.param({"low": 10, "high": 10, "index": 1}, ["a:1"], 0, id="beyond"),
        pytest.param({"low": 10, "high": 99, "index": 1, "stride": 1}, ["a:1", "b:2"], 0, id="index and stride"),
        pytest.param({"low": 10, "high": 99, "index": 0}, ["a:1"], 1 << 10, id="reserved"),
    ],
)
def test_a_sentence_is_in_the_words_of_the_proto(fields: dict[str, Any], ports: list[str], reserved: int) -> None:
    asked = ask("a", *ports, policy="Index", **fields)
    relay = replace(asked, owner=replace(asked.owner, kind="Relay"))

    def said(asked: Ask) -> str:
        with pytest.raises(Refused) as refused:
            number_groups(asked, ReservedNumbers(reserved), is_pod=asked.owner.is_pod)
        return str(refused.value)

    assert said(asked) == said(relay)
    assert not re.search(r"hostport\.io|m(in|ax)-port|label", said(asked))


# -- the answers that are kept


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> SizedCache[Any, Any]:
    answers: SizedCache[Any, Any] = SizedCache(policies.KEPT_BYTES)
    monkeypatch.setattr(policies, "_kept", answers)
    return answers


def avoiding(*avoid: int, policy: str) -> Ask:
    return ask("web-0", "a:80", policy=policy, index=0, avoid=avoid)


@pytest.mark.parametrize("policy", [name for name, terms in POLICIES.items() if not terms.is_searched])
def test_what_probes_name_makes_no_other_answer_where_nothing_is_searched(
    policy: str, kept: SizedCache[Any, Any]
) -> None:
    for avoid in range(8000, 8010):
        with contextlib.suppress(Refused):
            number_groups(avoiding(avoid, policy=policy), ReservedNumbers(), is_pod=True)
    assert len(kept) <= 1


def test_the_numbers_that_probes_name_count_among_the_bytes_of_an_answer(kept: SizedCache[Any, Any]) -> None:
    avoid = tuple(range(60_000, 60_000 + MOST_AVOIDED))
    number_groups(avoiding(*avoid, policy="Dynamic"), ReservedNumbers(), is_pod=True)
    assert kept.size >= sys.getsizeof(avoid) + sum(map(sys.getsizeof, avoid))
