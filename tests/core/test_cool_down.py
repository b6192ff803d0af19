"""A number that somebody gave up is left alone for a while, on the node where that was, as long as others are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from allocator.core.asks import Ask, Refused
from allocator.core.candidates import Constraints, NodeName
from allocator.core.claims import PodUid
from allocator.core.index import cooling
from allocator.core.index.cooling import GivenUp, Reuse, member
from allocator.core.index.ports import PortIndex
from allocator.core.ports import PortKey
from testing.costing import counting, instructions
from testing.kit import Grounds, ask, lease, node, on, pod


def dynamic(name: str, *ports: str, low: int = 7000, high: int = 7009, **more: Any) -> Ask:
    return ask(name, *(ports or ("web:80",)), low=low, high=high, **more)


def test_another_pod_does_not_get_a_number_that_was_just_given_up() -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    assert desk.numbers(dynamic("b")) == [7001]


@pytest.mark.parametrize(("later", "number"), [(59.9, 7001), (60.0, 7000)], ids=["before its end", "at its end"])
def test_a_number_has_cooled_down_after_the_cool_down(later: float, number: int) -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    desk.now += later
    assert desk.numbers(dynamic("b")) == [number]


def test_a_number_that_is_given_up_again_cools_anew() -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    desk.now += 50.0
    desk.runs_and_goes(dynamic("a"))
    desk.now += 50.0
    assert desk.numbers(dynamic("b")) == [7001]


def test_a_number_that_is_given_up_again_after_a_length_was_first_asked_for_cools_anew() -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    desk.now += 50.0
    desk.runs_and_goes(dynamic("a", cool_down=90.0))
    desk.now += 50.0
    assert desk.numbers(dynamic("b", cool_down=90.0)) == [7001]
    desk.now += 40.0
    assert desk.numbers(dynamic("c", cool_down=90.0)) == [7000]


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        (dynamic("b", cool_down=600.0), 7001),
        (dynamic("b", cool_down=100.0), 7000),
        (dynamic("b", cool_down=0.0), 7000),
        (dynamic("b"), 7000),
        (dynamic("b", "web:80=7000"), 7000),
        (dynamic("b", "web:80=7000", policy="Static", cool_down=600.0), 7000),
    ],
    ids=["longer", "shorter", "none", "the operator's", "its own wish", "Static"],
)
def test_a_pod_says_how_long_a_number_must_have_cooled_for_it(asked: Ask, number: int) -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    desk.now += 200.0
    assert desk.numbers(asked) == [number]


def test_what_cools_is_given_where_nothing_else_is_free() -> None:
    desk = Grounds("n1")
    desk.run(dynamic("stays", high=7001))
    desk.runs_and_goes(dynamic("a", high=7001))
    assert desk.numbers(dynamic("b", high=7001)) == [7001]


@dataclass(frozen=True)
class Return:
    """Who comes back: what it asked before, and what it asks now."""

    before: Ask
    now: Ask
    gets: int


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Return(dynamic("db-0"), dynamic("db-0"), 7000), id="a Pod of its name"),
        pytest.param(Return(dynamic("db-0"), dynamic("db-0", "other:81"), 7000), id="a Pod of its name, changed"),
        pytest.param(
            Return(
                dynamic("ds-", controller="ds", constraints=on("n1")),
                dynamic("ds-", controller="ds", constraints=on("n1")),
                7000,
            ),
            id="a Pod of its DaemonSet and node",
        ),
        pytest.param(
            Return(dynamic("web-", controller="rs"), dynamic("web-", controller="rs"), 7001),
            id="another Pod of its ReplicaSet",
        ),
        pytest.param(Return(dynamic("db-0"), dynamic("db-0", namespace="other"), 7001), id="of another namespace"),
    ],
)
def test_who_had_a_number_gets_it_back_at_once(case: Return) -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(case.before)
    assert desk.numbers(case.now) == [case.gets]


@pytest.mark.parametrize(("name", "number"), [("relay", 7000), ("other", 7001)], ids=["its holder", "another"])
def test_the_number_of_a_lease_cools_but_for_its_holder(name: str, number: int) -> None:
    desk = Grounds("n1")
    ended = desk.grant(lease("relay", "media:80", low=7000, high=7009))
    desk.ledger.end(ended.id, desk.now)
    assert desk.numbers(lease(name, "media:80", low=7000, high=7009)) == [number]


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        pytest.param("relay", "media:80*4", 7000, id="its holder"),
        pytest.param("relay", "media:80*3", 7000, id="its holder, who wants fewer"),
        pytest.param("other", "media:80*4", 7004, id="another"),
    ],
)
def test_the_block_of_a_lease_cools_but_for_its_holder(name: str, text: str, number: int) -> None:
    desk = Grounds("n1")
    ended = desk.grant(lease("relay", "media:80*4", low=7000, high=7009))
    desk.ledger.end(ended.id, desk.now)
    assert desk.numbers(lease(name, text, low=7000, high=7009)) == [number]


def test_numbers_of_a_block_that_somebody_names_do_not_make_others_cool() -> None:
    desk = Grounds("n1")
    desk.run(dynamic("stays", "x:1=7001", policy="Static"))
    desk.observe(pods=[pod("was", "x:1=7000", "y:1=30000*4", at="n1", uid="was")])
    desk.observe(gone_pods=[PodUid("was")])

    assert desk.numbers(dynamic("b", "rtp:1=30000*4", "web:80")) == [30000, 7002]


def test_a_lease_gets_no_number_that_a_pod_just_gave_up() -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    assert desk.numbers(lease("relay", "media:80", low=7000, high=7009)) == [7001]


def test_a_lease_goes_where_its_number_does_not_cool() -> None:
    desk = Grounds("n1", "n2")
    desk.runs_and_goes(dynamic("a", high=7000), "n1")
    assert desk.grant(lease("relay", "media:80", low=7000, high=7000)).node == "n2"


def test_what_was_merely_reserved_does_not_cool() -> None:
    """No Pod was ever there."""
    desk = Grounds("n1")
    reserved = desk.grant(dynamic("a"))
    desk.ledger.end(reserved.id, desk.now)
    assert desk.numbers(dynamic("b")) == [7000]


def test_a_plan_that_moves_leaves_nothing_to_cool() -> None:
    desk = Grounds("n1", "n2")
    claim = desk.grant(dynamic("a"))
    desk.bind(claim, "n2" if claim.node == "n1" else "n1")
    assert not desk.ledger._store.given_up.at


def test_the_number_of_a_pod_that_ran_and_was_never_seen_to_run_cools() -> None:
    desk = Grounds("n1")
    claim = desk.grant(dynamic("a"))
    desk.bind(claim, "n1", is_finished=True)
    assert desk.numbers(dynamic("b")) == [7001]


def test_the_number_of_a_pod_that_never_asked_cools() -> None:
    desk = Grounds("n1")
    desk.observe(pods=[pod("other", "x:7000", at="n1", uid="other")])
    desk.observe(gone_pods=[PodUid("other")])
    assert desk.numbers(dynamic("b")) == [7001]


def test_a_number_cools_on_its_node_alone() -> None:
    desk = Grounds("n1", "n2")
    desk.runs_and_goes(dynamic("a", constraints=on("n1")))
    assert desk.numbers(dynamic("b", constraints=on("n2"))) == [7000]
    assert desk.numbers(dynamic("c", constraints=on("n1"))) == [7001]


def test_a_number_that_cools_on_no_candidate_comes_before_one_that_cools_on_some() -> None:
    """The scheduler may choose any of them."""
    desk = Grounds("n1", "n2")
    desk.run(dynamic("x", high=7001, constraints=on("n2")))
    desk.runs_and_goes(dynamic("a", high=7001, constraints=on("n2")))  # 7001 on n2
    claim = desk.grant(dynamic("b", high=7001))
    assert (claim.ports[0].host_port, claim.node) == (7000, "n1")


def test_a_number_that_cools_on_some_candidates_is_planned_on_another() -> None:
    desk = Grounds("n1", "n2")
    desk.runs_and_goes(dynamic("a", high=7000), "n1")
    assert desk.grant(dynamic("b", high=7000)).node == "n2"


def test_a_number_that_cools_wherever_it_is_free_comes_behind_one_that_does_not() -> None:
    """Both cool on some candidate: 7000 where it is free, 7001 where it is held by now."""
    desk = Grounds("n1", "n2")
    desk.runs_and_goes(dynamic("a", high=7000), "n1")
    desk.run(dynamic("x", "x:1=7000", policy="Static", constraints=on("n2")))
    desk.runs_and_goes(dynamic("c", "x:1=7001", policy="Static", constraints=on("n1")))
    claim = desk.grant(dynamic("b", high=7001))
    assert (claim.ports[0].host_port, claim.node) == (7001, "n2")


def test_several_ports_get_numbers_that_do_not_cool_together_on_a_node() -> None:
    desk = Grounds("n1", "n2")
    desk.runs_and_goes(dynamic("a", "x:1", "y:2", high=7001), "n1")
    claim = desk.grant(dynamic("b", "x:1", "y:2", high=7001))
    assert ([p.host_port for p in claim.ports], claim.node) == ([7000, 7001], "n2")


def test_a_group_of_two_protocols_gets_a_number_that_cools_under_neither() -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a", "dns:53/UDP"))
    assert desk.numbers(dynamic("b", "t:53/TCP", "u:53/UDP")) == [7001, 7001]


def test_a_pod_that_no_node_takes_yet_gets_a_number_all_the_same() -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    nowhere = Constraints(selector=(("disk", "ssd"),))
    assert desk.numbers(dynamic("b", constraints=nowhere)) == [7000]


def test_what_cools_denies_nobody() -> None:
    desk = Grounds("n1")
    given = [desk.run(dynamic(f"a{n}", high=7002)) for n in range(3)]
    for claim in given:
        desk.goes(claim)
    numbers = [desk.numbers(dynamic(f"b{n}", high=7002)) for n in range(3)]
    assert numbers == [[7000], [7001], [7002]]
    with pytest.raises(Refused):
        desk.grant(dynamic("c", high=7002))


def test_a_node_that_comes_after_another_one_went_has_nothing_that_cools() -> None:
    """It must not get the place of the other one in the sets of nodes while that is remembered."""
    desk = Grounds("n1", "n2")
    desk.runs_and_goes(dynamic("a"), "n1")
    desk.observe(gone_nodes=[NodeName("n1")])
    desk.observe(nodes=[node("n3")])
    assert desk.numbers(dynamic("b", constraints=on("n3"))) == [7000]
    desk.observe(nodes=[node("n1")])
    assert desk.numbers(dynamic("c", constraints=on("n1"))) == [7001]


def test_a_node_that_is_gone_is_forgotten_with_what_cooled_there() -> None:
    desk = Grounds("n1", "n2")
    desk.runs_and_goes(dynamic("a"), "n1")
    desk.observe(gone_nodes=[NodeName("n1")])
    assert "n1" in desk.ledger._store.nodes.positions
    desk.now += 3600.0
    desk.grant(dynamic("b"))
    assert "n1" not in desk.ledger._store.nodes.positions


def test_what_was_given_up_first_is_forgotten_first_where_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooling, "MOST_GIVEN_UP", 2)
    desk = Grounds("n1")
    for claim in [desk.run(dynamic(f"a{n}")) for n in range(3)]:
        desk.goes(claim)
        desk.now += 1.0
    assert desk.numbers(dynamic("b")) == [7000]
    assert desk.numbers(dynamic("c")) == [7003]
    assert len(desk.ledger._store.given_up.at) == 2


def test_much_that_has_cooled_down_is_forgotten_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooling, "MOST_AT_ONCE", 4)
    desk = Grounds("n1")
    desk.observe(pods=[pod("was", "x:1=7000*10", at="n1", uid="was")])
    desk.observe(gone_pods=[PodUid("was")])
    desk.now += 60.0

    assert desk.numbers(dynamic("a", high=7019)) == [7000]
    assert desk.numbers(dynamic("b", high=7019)) == [7001]


def test_cool_downs_of_many_lengths_are_not_all_kept_ready() -> None:
    desk = Grounds("n1")
    desk.runs_and_goes(dynamic("a"))
    for seconds in range(1, 50):
        desk.ledger.preview(dynamic("b", cool_down=float(seconds)), desk.now)
    assert len(desk.ledger._store.given_up._by_seconds) == cooling.MOST_DURATIONS


def test_a_search_beside_much_that_cools_asks_seldom_where_a_number_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that go cool with all of their numbers: 32 of 1,024 must not hold the event loop up."""
    desk, held, asked = Grounds("n1", "n2"), PortIndex.conflicting, []
    for start in range(20000, 28192, 1024):
        for name, at in (("goes", "n1"), ("stays", "n2")):
            claim = desk.grant(ask(f"{name}-{start}", f"x:1={start}*1024", policy="Static", constraints=on(at)))
            desk.observe(pods=[pod(claim.owner.name, f"x:1={start}*1024", at=at, uid=claim.id, carried_id=claim.id)])
            if name == "goes":
                desk.goes(claim)

    def conflicting(index: PortIndex, key: PortKey) -> int:
        asked.append(key)
        return held(index, key)

    monkeypatch.setattr(PortIndex, "conflicting", conflicting)
    assert desk.numbers(dynamic("a", low=20000, high=28191)) == [20000]
    assert len(asked) < 2_048  # of 8,192 numbers


COOLING = 8_192
MOST_FOR_A_NUMBER = 8
"""Instructions: a turn of the event loop may be held up by all of the 32,768 numbers that are remembered."""


@pytest.mark.parametrize("seconds", [60.0, 61.0], ids=["of a usual length", "of a length that nobody asked for yet"])
def test_a_decision_beside_much_that_cools_takes_few_instructions_for_each_number(seconds: float) -> None:
    desk = Grounds("n1")
    for start in range(20000, 20000 + COOLING, 1024):
        text = f"x:1={start}*1024"
        desk.observe(pods=[pod(f"p{start}", text, at="n1", uid=f"p{start}")])
        desk.observe(gone_pods=[PodUid(f"p{start}")])
    wide = {"low": 20000, "high": 20000 + COOLING}
    assert desk.numbers(dynamic("a", **wide)) == [20000 + COOLING]

    asked = dynamic("b", cool_down=seconds, **wide)
    assert instructions(lambda: desk.ledger.preview(asked, desk.now)) < MOST_FOR_A_NUMBER * COOLING


@pytest.mark.parametrize(("later", "number"), [(0.0, 20001), (60.0, 20000)], ids=["while they cool", "afterwards"])
def test_blocks_leave_the_grid_only_for_single_numbers_that_cool_on_it(later: float, number: int) -> None:
    """A mixed past: on each run of the grid somebody gave a number up, and a run beside them is free."""
    desk = Grounds("n1")
    for single in (20000, 20012):
        desk.observe(pods=[pod(f"p{single}", f"x:1={single}", at="n1", uid=f"p{single}")])
        desk.observe(gone_pods=[PodUid(f"p{single}")])
    desk.now += later

    assert desk.numbers(dynamic("b", "x:1*8", low=20000, high=20015)) == [number]


def test_with_nothing_to_cool_a_decision_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GivenUp, "cooling", None)
    assert Grounds("n1").numbers(dynamic("a")) == [7000]


# -- the order of numbers


def test_oldest_gives_what_was_never_given_up_then_what_was_given_up_longest_ago() -> None:
    desk = Grounds("n1", reuse=Reuse.OLDEST, cool_down=0.0)
    claims = [desk.run(dynamic(f"a{n}", high=7003)) for n in range(3)]
    for claim in (claims[1], claims[0], claims[2]):
        desk.goes(claim)
    assert [desk.numbers(dynamic(f"b{n}", high=7003))[0] for n in range(4)] == [7003, 7001, 7000, 7002]


def test_the_oldest_is_found_at_once_however_many_numbers_were_given_up() -> None:
    desk = Grounds("n1", reuse=Reuse.OLDEST, cool_down=0.0)
    for start in range(1024, 65024, 1000):
        for at in range(start, start + 1000, 100):
            text = f"x:1={at}*100"
            claim = desk.grant(ask(f"a{at}", text, policy="Static"))
            desk.observe(pods=[pod(claim.owner.name, text, at="n1", uid=claim.id, carried_id=claim.id)])
            desk.goes(claim)
    pick = desk.ledger._store.given_up.oldest_first(1024)

    with counting() as cost:
        assert [pick(1 << number) for number in range(63000, 63256)] == [*range(63000, 63256)]
    assert cost.instructions < 200_000  # going through the numbers takes ten times as many


def test_random_gives_numbers_by_the_chance_that_made_the_id() -> None:
    def given() -> list[int]:
        desk = Grounds("n1", reuse=Reuse.RANDOM)
        return [desk.numbers(dynamic(f"a{n}", high=7099))[0] for n in range(20)]

    numbers = given()
    assert numbers == given()
    assert len(set(numbers)) == 20
    assert numbers != sorted(numbers)
    assert max(numbers) - min(numbers) > 50


@pytest.mark.parametrize("reuse", Reuse, ids=lambda reuse: reuse.value)
def test_whatever_the_order_every_number_of_the_range_is_given(reuse: Reuse) -> None:
    desk = Grounds("n1", reuse=reuse)
    numbers = [desk.numbers(dynamic(f"a{n}", "x:1", "y:2"))[:] for n in range(5)]
    assert sorted(number for pair in numbers for number in pair) == list(range(7000, 7010))


@pytest.mark.parametrize("numbers", [0b1, 0b1010, 0b1 << 70 | 0b11, (1 << 100) - 1], ids=bin)
def test_the_members_of_a_set_are_found_by_their_rank(numbers: int) -> None:
    found = [member(numbers, rank) for rank in range(numbers.bit_count())]
    assert found == [at for at in range(numbers.bit_length()) if numbers >> at & 1]
