"""Blocks: ports that stand for several consecutive numbers."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from allocator.core.admission import Shares
from allocator.core.blocks import (
    BlockMap,
    block_of,
    largest_within,
    length_of,
    multiples,
    numbers_of,
    runs,
    slots_in,
    spread,
    within,
)
from allocator.core.claims import ClaimId, ClaimPort, State
from allocator.core.ports import CountedNumbers, NumberSet, PortKey, Protocol, count_of, set_of, slot_of
from allocator.core.store import ClaimStore
from testing.kit import Desk, ask, claim_on, claim_port, lease, node, on, pod

TCP, UDP = Protocol.TCP, Protocol.UDP
NUMBERS = range(60)
sets = st.sets(st.sampled_from(NUMBERS))
lengths = st.integers(1, 12)


# -- runs in sets of numbers


@pytest.mark.parametrize(
    ("numbers", "length", "begins"),
    [
        pytest.param({1, 2, 3, 5}, 1, {1, 2, 3, 5}, id="one number: every member"),
        pytest.param({1, 2, 3, 5}, 2, {1, 2}, id="two"),
        pytest.param({1, 2, 3, 5}, 3, {1}, id="three"),
        pytest.param({1, 2, 3, 5}, 4, set(), id="none is so long"),
        pytest.param({0, 1, 2, 3, 4, 5, 6}, 5, {0, 1, 2}, id="no power of two"),
        pytest.param(set(range(1024)), 1024, {0}, id="the longest"),
        pytest.param(set(range(1023)), 1024, set(), id="one too few"),
    ],
)
def test_runs_begin_where_so_many_members_follow_one_another(numbers: set[int], length: int, begins: set[int]) -> None:
    assert runs(set_of(numbers), length) == set_of(begins)


@given(sets, lengths)
def test_a_run_begins_where_all_of_it_is_in_the_set(numbers: set[int], length: int) -> None:
    expected = {n for n in NUMBERS if numbers.issuperset(range(n, n + length))}

    assert runs(set_of(numbers), length) == set_of(expected)


@given(sets, lengths)
def test_runs_that_meet_a_set_are_all_that_have_a_member(numbers: set[int], length: int) -> None:
    expected = {n for n in range(NUMBERS.stop) if numbers.intersection(range(n, n + length))}

    assert spread(set_of(numbers), length) == set_of(expected)


@given(st.lists(st.sampled_from(NUMBERS)).map(Counter), lengths)
def test_the_largest_count_of_a_run_is_that_of_its_busiest_number(of: Counter[int], length: int) -> None:
    counted = CountedNumbers()
    for number in of.elements():
        counted.add(number)
    found = largest_within(counted.within(0, NUMBERS.stop), length)

    assert [count_of(found, n) for n in NUMBERS] == [max(of[m] for m in range(n, n + length)) for n in NUMBERS]


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 60))
def test_multiples_are_those_below_the_end(step: int, first: int, end: int) -> None:
    assert multiples(step, first, end) == set_of(range(first, end, step))


@given(st.lists(st.tuples(st.integers(0, 50), sets), max_size=12))
def test_counts_of_many_numbers_change_as_those_of_one_do(changes: list[tuple[int, set[int]]]) -> None:
    ours, model = CountedNumbers(), CountedNumbers()
    for base, numbers in changes:
        ours.add_all(base, set_of(numbers))
        for number in numbers:
            model.add(base + number)
    for base, numbers in changes[::2]:
        ours.discard_all(base, set_of(numbers))
        for number in numbers:
            model.discard(base + number)

    found = ours.within(0, 120)
    assert [count_of(found, n) for n in range(120)] == [count_of(model.within(0, 120), n) for n in range(120)]


def test_a_count_that_is_zero_cannot_become_less() -> None:
    ours = CountedNumbers()
    ours.add_all(10, 0b101)

    with pytest.raises(AssertionError, match="a count from 10 on is zero"):
        ours.discard_all(10, 0b111)


@given(sets, st.integers(0, 40), st.integers(1, 30), sets)
def test_a_part_of_a_set_is_replaced_and_the_rest_stays(before: set[int], base: int, size: int, part: set[int]) -> None:
    ours = NumberSet()
    for number in before:
        ours.add(number)
    inside = {n for n in part if n < size}
    ours.assign(base, set_of(inside), size)

    outside = {n for n in before if not base <= n < base + size}
    assert ours.within(0, 200) == set_of(outside | {base + n for n in inside})


# -- blocks as keys

blocks = st.builds(
    lambda protocol, first, length: block_of(slot_of(protocol, first), length),
    st.sampled_from(list(Protocol)),
    st.integers(1, 60),
    lengths,
)


@given(blocks)
def test_a_block_is_its_slots(block: int) -> None:
    key = PortKey("0.0.0.0", Protocol.TCP, numbers_of(block).start, length_of(block))  # type: ignore[arg-type]

    assert [slot >> 2 for slot in slots_in(block)] == list(numbers_of(block)) == list(key.numbers)  # type: ignore[arg-type]
    assert {slot & 3 for slot in slots_in(block)} == {block & 3}  # type: ignore[arg-type]
    assert within(block, 10, 20) == set_of({n - 10 for n in numbers_of(block) if 10 <= n <= 20})  # type: ignore[arg-type]


@given(st.lists(blocks), st.lists(blocks), blocks)
def test_a_map_of_blocks_finds_those_that_have_a_number_in_common(
    kept: list[int], dropped: list[int], wanted: int
) -> None:
    ours: BlockMap[str] = BlockMap()
    for block in kept:
        ours.put(block, "kept")  # type: ignore[arg-type]
    for block in dropped:
        ours.drop(block)  # type: ignore[arg-type]
    left = set(kept) - set(dropped)
    found = ours.meeting(wanted)  # type: ignore[arg-type]

    assert len(found) == len(set(found))
    assert set(found) == {b for b in left if set(slots_in(b)) & set(slots_in(wanted))}  # type: ignore[arg-type]
    assert len(ours) == len(left)


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        pytest.param("x:1/UDP=100*10", "x:1/UDP=109", True, id="the last number"),
        pytest.param("x:1/UDP=100*10", "x:1/UDP=110", False, id="the number behind it"),
        pytest.param("x:1/UDP=100*10", "x:1/UDP=99", False, id="the number before it"),
        pytest.param("x:1/UDP=100*10", "x:1/TCP=105", False, id="another protocol"),
        pytest.param("x:1/UDP=100*10", "x:1/UDP=91*10", True, id="two blocks in one number"),
        pytest.param("x:1/UDP=100*10", "x:1/UDP=90*10", False, id="two blocks side by side"),
        pytest.param("x:1/UDP=100*10@10.0.0.1", "x:1/UDP=105", True, id="all addresses against one"),
        pytest.param("x:1/UDP=100*10@10.0.0.1", "x:1/UDP=105@10.0.0.2", False, id="two addresses"),
        pytest.param("x:1/UDP=100*10@10.0.0.1", "x:1/UDP=105*3@10.0.0.1", True, id="a block in a block"),
    ],
)
def test_the_conflict_rule_holds_for_each_number_of_a_block(one: str, other: str, conflict: bool) -> None:
    a, b = claim_port(one).key, claim_port(other).key

    assert (a.conflicts_with(b), b.conflicts_with(a)) == (conflict, conflict)


# -- the books: a block is one entry, and every question is answered as for its numbers one by one

ports = st.builds(
    ClaimPort,
    protocol=st.sampled_from((TCP, UDP)),
    host_port=st.integers(1, 20),
    host_ip=st.sampled_from(("", "", "", "10.0.0.1", "10.0.0.2")),
    count=st.sampled_from((1, 1, 2, 3, 8)),
)


def one_by_one(port: ClaimPort) -> list[ClaimPort]:
    return [replace(port, host_port=port.host_port + at, count=1) for at in range(port.count)]


def are_apart(some: list[ClaimPort]) -> bool:
    """As asks are: no number twice on one address."""
    sockets = [(one.protocol, one.host_ip, one.host_port) for port in some for one in one_by_one(port)]
    return len(set(sockets)) == len(sockets)


claims = st.lists(
    st.tuples(
        st.sampled_from(("n0", "n1", "n2", None)),
        st.sampled_from(list(State)[1:4]),
        st.lists(ports, max_size=3).filter(are_apart),
    ),
    min_size=1,
    max_size=8,
)


def facts(store: ClaimStore) -> Mapping[str, object]:
    """What the indexes say of every number."""
    anywhere = store.sets.of(claim_on("x", "n0").constraints)
    said: dict[str, object] = {}
    for protocol in (TCP, UDP):
        numbers = store.numbers
        said[f"{protocol} taken"] = numbers.taken(anywhere, protocol, 1, 40)
        said[f"{protocol} stuck"] = numbers.loads_and_stuck(anywhere, protocol, 1, 40)
        said[f"{protocol} full"] = numbers.full(anywhere, protocol, 1, 40)
        said[f"{protocol} leased"] = store.ports.leased_numbers(anywhere, protocol, 1, 40)
        for ip in ("0.0.0.0", "10.0.0.1", "10.0.0.3"):
            for number in range(1, 31):
                key = PortKey(ip, protocol, number)
                said[str(key)] = (
                    store.ports.conflicting(key),
                    store.ports.settled(key),
                    store.ports.leased(key),
                    store.sets.landable(key),
                    [sorted(store.ports.holders(name, key)) for name in store.nodes.names],
                    sorted(store.wanting_any(key)),
                )
    return said


@given(claims, st.data())
def test_the_books_say_of_each_number_of_a_block_what_they_would_say_of_a_port(
    made: list[tuple[str | None, State, list[ClaimPort]]], data: st.DataObject
) -> None:
    ours, model = ClaimStore(), ClaimStore()
    for store in (ours, model):
        for name in ("n0", "n1", "n2"):
            store.sets.put_node(node(name))
        facts(store)  # so that counts are kept from the beginning
    for at, (where, state, some) in enumerate(made):
        claim = claim_on(f"c{at}", where if state is not State.LEASED else where or "n0")
        claim = replace(claim, state=state if where else State.RESERVED, ports=tuple(some))
        ours.insert(claim)
        model.insert(replace(claim, ports=tuple(one for port in some for one in one_by_one(port))))
    assert facts(ours) == facts(model)

    for claim_id in data.draw(st.lists(st.sampled_from(sorted(ours.claims)), unique=True)):
        for store in (ours, model):
            store.remove(ClaimId(claim_id))
    assert facts(ours) == facts(model)


# -- the policies


def got(desk: Desk, *args: str, **more: Any) -> list[str]:
    """What an ask is given, a port each."""
    return [str(port.key) for port in desk.grant(ask(*args, **more)).ports]


R: dict[str, Any] = {"low": 20000, "high": 20999}
SHARES = Shares(reserved_ports=100, leases=100)


@pytest.mark.parametrize(
    ("ports", "more", "numbers"),
    [
        pytest.param(["m:5004/UDP*100"], {}, ["20000-20099/UDP"], id="Dynamic: the first of the range"),
        pytest.param(
            ["m:5004/UDP*100", "http:80"], {}, ["20000-20099/UDP", "20100/TCP"], id="Dynamic: a single number beside it"
        ),
        pytest.param(
            ["http:80", "m:5004*100"], {}, ["20100/TCP", "20000-20099/TCP"], id="Dynamic: the larger one first"
        ),
        pytest.param(["a:1*100", "b:2*100"], {}, ["20000-20099/TCP", "20100-20199/TCP"], id="Dynamic: two blocks"),
        pytest.param(["m:5004/UDP*100%2"], {"low": 20001}, ["20002-20101/UDP"], id="Dynamic: begins at an even number"),
        pytest.param(["m:5004/UDP*3%2"], {}, ["20000-20002/UDP"], id="Dynamic: an odd length, aligned"),
        pytest.param(
            ["m:53*10", "m:53/UDP*10"], {}, ["20000-20009/TCP", "20000-20009/UDP"], id="Dynamic: a port group"
        ),
        pytest.param(["m:5004*8"], {"policy": "Index", "index": 0}, ["20000-20007/TCP"], id="Index 0: from min on"),
        pytest.param(
            ["m:5004*8"], {"policy": "Index", "index": 3}, ["20024-20031/TCP"], id="Index 3: behind those of 0 to 2"
        ),
        pytest.param(
            ["m:5004*8", "http:80"],
            {"policy": "Index", "index": 3},
            ["20024-20031/TCP", "20103/TCP"],
            id="Index: with a single number behind it",
        ),
        pytest.param(
            ["http:80", "m:5004*100"],
            {"policy": "Index", "index": 1},
            ["20001/TCP", "20200-20299/TCP"],
            id="Index: nothing is behind the last group",
        ),
        pytest.param(
            ["m:5004=30000*100", "sip:5060"],
            {"policy": "Index", "index": 0, "stride": 50},
            ["30000-30099/TCP", "20050/TCP"],
            id="Index: a block that the user placed is not in the stride",
        ),
        pytest.param(
            ["http:80", "m:5004=30000*100", "sip:5060"],
            {"policy": "Index", "index": 70, "stride": 50},
            ["20070/TCP", "30000-30099/TCP", "20170/TCP"],
            id="Index: nor is one between two others, whose place stays empty",
        ),
        pytest.param(
            ["m:5004*100", "sip:5060=30000"],
            {"policy": "Index", "index": 0, "stride": 50},
            ["20000-20099/TCP", "30000/TCP"],
            id="Index: nor is a port behind the block that the user placed",
        ),
        pytest.param(
            ["m:5004=30000*4", "m:5004/UDP*4", "x:8080"],
            {"low": 20000, "high": 20002},
            ["30000-30003/TCP", "30000-30003/UDP", "20000/TCP"],
            id="Dynamic: a block that another member of its group placed needs no room",
        ),
        pytest.param(["m:5004=6000*8"], {"policy": "Static"}, ["6000-6007/TCP"], id="Static: from the hostPort on"),
        pytest.param(
            ["m:5004*8"], {"policy": "Passthrough"}, ["5004-5011/TCP"], id="Passthrough: from the containerPort on"
        ),
    ],
)
def test_a_policy_gives_a_block_its_first_number(ports: list[str], more: dict[str, Any], numbers: list[str]) -> None:
    assert got(Desk("n1"), "web-0", *ports, **{**R, **more}) == numbers


@pytest.mark.parametrize(
    ("ports", "more", "refusal"),
    [
        pytest.param(
            ["m:5004*100"],
            {"high": 20098},
            {
                "RANGE_TOO_SMALL": "port m (5004/TCP) of container c: range 20000-20098 has no room for 100 numbers,"
                " whoever holds what. Raise range.max, or ask for a smaller block"
            },
            id="a range that is smaller than the block",
        ),
        pytest.param(
            ["a:1*100%2", "b:2*100%2"],
            {"low": 20001, "high": 20200},
            {
                "RANGE_TOO_SMALL": "range 20001-20200 has no room for 2 blocks of 100 numbers from a multiple of 2 on,"
                " whoever holds what. Raise range.max, or ask for fewer or smaller blocks"
            },
            id="a range with room for one of two blocks, because of where they begin",
        ),
        pytest.param(
            ["m:5004*100", "http:80=20075"],
            {"low": 20000, "high": 20149},
            {
                "RANGE_TOO_SMALL": "range 20000-20149 has no room for a block of 100 numbers beside what is reserved or"
                " fixed, whoever holds what. Raise range.max, or ask for fewer or smaller blocks"
            },
            id="a range that a fixed number of the Pod's own parts",
        ),
        pytest.param(
            ["a:1*100", "b:2*60", "http:80=20120"],
            {"low": 20000, "high": 20170},
            {
                "RANGE_TOO_SMALL": "range 20000-20170 has no room for blocks of 100 and 60 numbers beside what is"
                " reserved or fixed, whoever holds what. Raise range.max, or ask for fewer or smaller blocks"
            },
            id="blocks of two sizes, of which each fits by itself",
        ),
        pytest.param(
            ["a:1*3", "b:2*2", "x:80=20003", "y:81=20005"],
            {"low": 20000, "high": 20006},
            {
                "RANGE_TOO_SMALL": "range 20000-20006 has no room for 2 blocks of 2 numbers or more beside what is reserved"
                " or fixed, whoever holds what. Raise range.max, or ask for fewer or smaller blocks"
            },
            id="blocks of two sizes, for which even the smaller one would be too large",
        ),
        pytest.param(
            ["m:5004*4"],
            {"low": 7470, "high": 7475},
            {
                "RANGE_RESERVED": "port m (5004/TCP) of container c: range 7470-7475 has no room for 4 numbers beside"
                " those that are reserved in this cluster or named by the Pod's own probes or hooks. Choose another"
                " range, or a smaller block"
            },
            id="a range with a reserved number in each run",
        ),
        pytest.param(
            ["m:5004*8", "http:80"],
            {"policy": "Index", "index": 12},
            {
                "INDEX_EXCEEDS_STRIDE": "port m (5004/TCP) of container c: 8 numbers for each of the indexes 0 to 12 are"
                " 104, more than stride 100, so that they would run into those of the next port. Set stride to 104 or"
                " more"
            },
            id="Index meets the next group",
        ),
        pytest.param(
            ["m:5004*60", "sip:5060=30000", "http:80"],
            {"policy": "Index", "index": 4},
            {
                "INDEX_EXCEEDS_STRIDE": "port m (5004/TCP) of container c: 60 numbers for each of the indexes 0 to 4 are"
                " 300, more than 2 x stride 100, so that they would run into those of the next port. Set stride to 150"
                " or more"
            },
            id="Index meets the group after the next",
        ),
        pytest.param(
            ["m:5004*100", "m:5004/UDP*100"],
            {"high": 20098},
            {
                "RANGE_TOO_SMALL": "port m (5004/TCP) of container c: range 20000-20098 has no room for 100 numbers,"
                " whoever holds what. Raise range.max, or ask for a smaller block"
            },
            id="a range that is smaller than the block of a port group",
        ),
        pytest.param(
            ["m:5004*100"],
            {"policy": "Index", "index": 10},
            {
                "NUMBER_BEYOND_RANGE": "port m (5004/TCP) of container c: range.min 20000 + 100 x index 10 + stride 100"
                " x 0 = 21000, so that its 100 numbers end at 21099, beyond range.max 20999. Raise range.max, or lower"
                " range.min"
            },
            id="Index ends beyond the range",
        ),
        pytest.param(
            ["m:5004*100"],
            {"policy": "Index", "index": 460, "high": 65535},
            {
                "NUMBER_BEYOND_RANGE": "port m (5004/TCP) of container c: range.min 20000 + 100 x index 460 + stride 100"
                " x 0 = 66000, so that its 100 numbers end at 66099, beyond the highest port, 65535. Set range.min to 19436"
                " or less, or ask for a smaller block"
            },
            id="Index ends beyond the last number",
        ),
        pytest.param(
            ["http:80", "m:5004*1000"],
            {"policy": "Index", "index": 65, "low": 400, "high": 60000},
            {
                "NUMBER_BEYOND_RANGE": "port m (5004/TCP) of container c: range.min 400 + 1000 x index 65 + stride 100 x 1"
                " = 65500, so that its 1000 numbers end at 66499, beyond the highest port, 65535. Lower the index, or ask"
                " for a smaller block or stride"
            },
            id="Index ends beyond the last number from wherever the range begins",
        ),
        pytest.param(
            ["m:5004*8"],
            {"policy": "Index", "index": 0, "low": 7470, "high": 7499},
            {
                "PORT_RESERVED": "port m (5004/TCP) of container c: range.min 7470 + 8 x index 0 + stride 100 x 0 = 7470,"
                " and of its 8 numbers 7472 is reserved in this cluster. Move range.min"
            },
            id="Index meets a reserved number",
        ),
        pytest.param(
            ["m:5004=7470*8"],
            {"policy": "Static"},
            {
                "PORT_RESERVED": "port m (5004/TCP) of container c: of its numbers 7470-7477, 7472 is reserved in this"
                " cluster. Choose other numbers"
            },
            id="Static meets a reserved number",
        ),
        pytest.param(
            ["m:5004=6001*8%2"],
            {"policy": "Static"},
            {
                "BLOCK_MISALIGNED": "port m (5004/TCP) of container c: a block that begins with 6001 does not begin with"
                " an even number, as it has to. Move it by one"
            },
            id="even, with Static on an odd number",
        ),
        pytest.param(
            ["m:5004*5%2"],
            {"policy": "Index", "index": 1},
            {
                "BLOCK_MISALIGNED": "port m (5004/TCP) of container c: a block that begins with 20005 does not begin with"
                " an even number, as it has to. Make range.min, stride and the size multiples of 2"
            },
            id="even, with Index on an odd number",
        ),
        pytest.param(
            ["m:5004=65530*8"],
            {"policy": "Static"},
            {
                "NUMBER_BEYOND_RANGE": "port m (5004/TCP) of container c: 8 numbers from 65530 on end at 65537, beyond"
                " 65535. Begin lower"
            },
            id="Static ends beyond the last number",
        ),
        pytest.param(
            ["m:53*8", "n:53*4"],
            {},
            {
                "BLOCK_SIZES_DIFFER": "port m (53/TCP) of container c and port n (53/TCP) of container c share their"
                " number, and ask for 8 numbers and for 4 numbers. Ask for the same at both"
            },
            id="two names of one socket with two sizes",
        ),
        pytest.param(
            ["m:53*8%2", "m:53/UDP"],
            {},
            {
                "BLOCK_SIZES_DIFFER": "port m (53/TCP) of container c and port m (53/UDP) of container c share their"
                " number, and ask for 8 numbers from a multiple of 2 on and for one number. Ask for the same at both"
            },
            id="a port group of which one is a block",
        ),
        pytest.param(
            ["m:5004=6000*8", "http:80=6007"],
            {"policy": "Static"},
            {
                "OWN_PORTS_COLLIDE": "port http (80/TCP) of container c and port m (5004/TCP) of container c would both"
                " get numbers of 6007/TCP. Give them different numbers"
            },
            id="a port of the Pod's own in the block",
        ),
    ],
)
def test_a_block_that_can_never_be_is_refused_with_a_remedy(
    ports: list[str], more: dict[str, Any], refusal: dict[str, str]
) -> None:
    desk = Desk("n1", reserved=1 << 7472)

    assert desk.refusal(ask("web-0", *ports, **{**R, **more})) == refusal


SIZES = st.tuples(st.integers(1, 4), st.sampled_from([1, 1, 2]))


def fits(wanted: list[tuple[int, int]], free: frozenset[int]) -> bool:
    """Whether all blocks, each a size and an alignment, can be had at once: every way is tried."""
    if not wanted:
        return True
    (size, alignment), *rest = wanted
    runs_there = (range(at, at + size) for at in free if at % alignment == 0)
    return any(fits(rest, free - set(run)) for run in runs_there if free.issuperset(run))


@given(st.lists(SIZES, min_size=1, max_size=3), st.integers(1, 12), st.sets(st.integers(7000, 7012), max_size=2), sets)
@example([(3, 2), (3, 2)], 6, set(), set())
@example([(4, 1), (2, 1)], 7, {7004}, set())
def test_a_range_is_too_small_only_where_no_node_could_have_room(
    wanted: list[tuple[int, int]], width: int, fixed: set[int], reserved: set[int]
) -> None:
    high = 7000 + width - 1
    withheld = {7000 + number for number in reserved}
    open_ports = [f"p:{at + 1}*{size}%{alignment}" for at, (size, alignment) in enumerate(wanted)]
    asked = ask("p", *open_ports, *(f"f:{number}={number}" for number in fixed), low=7000, high=high)

    refusal = Desk("n1", reserved=set_of(withheld)).refusal(asked)

    has_room = fits(sorted(wanted, reverse=True), frozenset(range(7000, high + 1)) - fixed - withheld)
    assert (refusal == {}) is has_room


# -- where blocks fit


def test_blocks_of_a_range_are_given_side_by_side_on_every_node_and_then_none_is_left() -> None:
    desk = Desk("n1", "n2", "n3", "n4")
    given = [desk.grant(ask(f"jvb-{n}", "m:10000/UDP*100", **R)) for n in range(40)]

    assert Counter((claim.node, claim.ports[0].host_port) for claim in given) == {
        (f"n{n}", 20000 + 100 * block): 1 for n in range(1, 5) for block in range(10)
    }
    assert desk.refusal(ask("jvb-40", "m:10000/UDP*100", **R)) == {
        "RANGE_EXHAUSTED": "range 20000-20999 (1000 numbers) has no run of 100 free numbers left on any of 4 candidate"
        " nodes. Widen the range, or free ports"
    }
    desk.observe(nodes=[node("n5")])
    assert desk.grant(ask("jvb-40", "m:10000/UDP*100", **R)).node == "n5"


def test_a_run_beside_the_grid_is_found_where_no_run_of_it_is_free() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("a", "x:20050", at="n1"), pod("b", "x:20199", at="n1")])

    assert got(desk, "web", "m:1*100", low=20000, high=20199) == ["20051-20150/TCP"]


def test_a_fixed_block_is_refused_by_the_name_of_who_holds_one_of_its_numbers() -> None:
    desk = Desk("n1")
    desk.observe(pods=[pod("a", "x:6005", at="n1")])

    assert desk.refusal(ask("web", "m:1=6000*8", policy="Static")) == {
        "PORT_CONFLICT": "port m (1/TCP) of container c: 6000-6007/TCP is taken on the only candidate node: n1 by Pod"
        " demo/a. Choose another number or free it"
    }


def test_a_number_inside_a_block_is_refused_by_the_name_of_who_holds_the_block() -> None:
    desk = Desk("n1")
    desk.grant(ask("sfu", "m:1/UDP=6000*8", policy="Static"))

    assert desk.refusal(ask("web", "x:2/UDP=6007", policy="Static")) == {
        "PORT_CONFLICT": "port x (2/UDP) of container c: 6007/UDP is taken on the only candidate node: n1 by Pod"
        " demo/sfu. Choose another number or free it"
    }
    assert desk.grant(ask("web", "x:2/TCP=6007", policy="Static")).node == "n1"


def test_plans_of_blocks_are_moved_as_those_of_single_numbers_are() -> None:
    desk = Desk("n1", "n2")
    first = desk.grant(ask("a", "m:1=6000*100", policy="Static"))
    assert first.node == "n1"
    second = desk.grant(ask("b", "m:1=6000*100", policy="Static", constraints=on("n1")))

    assert (second.node, desk.ledger.claims.get(first.id).node) == ("n1", "n2")  # type: ignore[union-attr]


def test_blocks_that_meet_in_part_are_moved_one_behind_the_other() -> None:
    """Only trying it out shows it: the second may stand beside the third, and both meet the first."""
    desk = Desk("n1", "n2")
    middle = desk.grant(ask("middle", "m:1=6001*2", policy="Static"))
    right = desk.grant(ask("right", "m:1=6002*2", policy="Static"))
    assert (middle.node, right.node) == ("n1", "n2")

    left = desk.grant(ask("left", "m:1=6000*2", policy="Static", constraints=on("n1")))

    claims = desk.ledger.claims
    assert left.node == "n1"
    assert [claims.get(claim.id).node for claim in (middle, right)] == ["n2", "n1"]  # type: ignore[union-attr]


def test_a_pod_that_comes_back_gets_its_block_again() -> None:
    desk = Desk("n1", reservation_seconds=45.0)
    desk.grant(ask("jvb-0", "m:1*10", **R))
    claim = desk.grant(ask("jvb-1", "m:1*10", **R))
    numbers = tuple(f"x:{number}" for number in range(20010, 20020))
    desk.observe(pods=[pod("jvb-1", *numbers, at="n1", carried_id=claim.id)])
    desk.observe(gone_pods=["uid-demo-jvb-1"])

    assert got(desk, "jvb-1", "m:1*10", **R) == ["20010-20019/TCP"]


def test_a_lease_may_have_a_block() -> None:
    desk = Desk("n1")
    leased = desk.grant(lease("relay", "m:1/UDP*100%2", ttl=60.0, **R))

    assert (str(leased.ports[0].key), leased.node) == ("20000-20099/UDP", "n1")
    assert got(desk, "web", "m:1/UDP*100", **R) == ["20100-20199/UDP"]
    assert desk.refusal(ask("web-2", "x:1/UDP=20099", policy="Static")).keys() == {"HELD_BY_LEASE"}


# -- what is stored


def test_the_numbers_of_a_block_in_a_stored_pod_are_the_claims_one_port() -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("jvb", "m:5004/UDP*4", "http:80", **R))
    stored = ["m:20000/UDP", "http:20004", *(f":{number}/UDP" for number in range(20001, 20004))]
    desk.observe(pods=[pod("jvb", *stored, at="n1", carried_id=claim.id)])
    seen = desk.ledger.claims.get(claim.id)

    assert seen is not None
    assert (seen.state, seen.ports) == (State.BOUND, claim.ports)


@pytest.mark.parametrize(
    ("left", "ports"),
    [
        pytest.param([0, 1, 2], ["m 20000-20002/UDP"], id="the last one is gone"),
        pytest.param([1, 2, 3], ["m 20001-20003/UDP"], id="the first one is gone"),
        pytest.param([0, 2, 3], ["m 20000/UDP", "m 20002-20003/UDP"], id="one in the middle is gone"),
        pytest.param([], [], id="all are gone"),
    ],
)
def test_a_claim_shrinks_to_what_a_stored_pod_has_left_of_its_block(left: list[int], ports: list[str]) -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("jvb", "m:5004/UDP*4", **R))
    stored = [f":{20000 + at}/UDP" for at in left]
    desk.observe(pods=[pod("jvb", *stored, "late:9999", at="n1", carried_id=claim.id)])
    seen = desk.ledger.claims.get(claim.id)

    assert seen is not None
    assert [f"{port.name} {port.key}" for port in seen.ports] == [*ports, "late 9999/TCP"]
    assert [incident.kind.value for incident in desk.ledger.take_incidents()] == ["BlockShrunk"]


@pytest.mark.parametrize("count", [2, 3])
def test_what_is_left_of_a_block_keeps_the_containerport_of_its_port(count: int) -> None:
    desk = Desk("n1")
    claim = desk.grant(ask("jvb", f"m:5004/UDP*{count}", **R))
    desk.observe(pods=[pod("jvb", *(f"m:{20000 + at}/UDP" for at in range(count - 1)), at="n1", carried_id=claim.id)])
    seen = desk.ledger.claims.get(claim.id)

    assert seen is not None
    assert [(port.name, port.container_port, port.count) for port in seen.ports] == [("m", 5004, count - 1)]
    assert [incident.kind.value for incident in desk.ledger.take_incidents()] == ["BlockShrunk"]


def test_a_block_has_shrunk_whatever_another_address_has_of_its_numbers() -> None:
    desk = Desk("n1")
    asked = ask("jvb", "a:1=7000*4@10.0.0.1", "b:2=7000*4@10.0.0.2", policy="Static")
    claim = desk.grant(asked)
    left = [*(f":{7000 + at}@10.0.0.1" for at in range(4)), ":7000@10.0.0.2"]
    desk.observe(pods=[pod("jvb", *left, at="n1", carried_id=claim.id)])

    assert [incident.kind.value for incident in desk.ledger.take_incidents()] == ["BlockShrunk"]


def test_the_numbers_of_blocks_count_in_the_limits_of_a_namespace() -> None:
    desk = Desk("n1", shares=SHARES)
    desk.ledger.trust_pods(desk.now)
    desk.grant(ask("a", "m:1*60", **R))
    desk.grant(lease("one", "m:1*60", **R))

    assert desk.refusal(ask("b", "m:1*41", **R)).keys() == {"NAMESPACE_BACKLOG"}
    assert desk.refusal(ask("b", "m:1*40", **R)) == {}
    assert desk.refusal(lease("two", "m:1*41", **R)).keys() == {"TOO_MANY_LEASES"}
    assert desk.refusal(lease("two", "m:1*40", **R)) == {}


def test_a_node_with_one_block_takes_hardly_more_memory_than_one_with_a_single_number() -> None:
    def taken(text: str) -> int:
        desk = Desk(*(f"n{at}" for at in range(500)))
        pods = [pod(f"p{at}", text, at=f"n{at}") for at in range(500)]
        gc.collect()  # what Python keeps of other objects, to use it again, would not be counted
        tracemalloc.start()
        desk.observe(pods=pods)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size

    taken("m:1=7000")  # what is kept of the first of all
    assert taken("m:1=7000*1000") <= 1.2 * taken("m:1=7000")


def test_a_number_is_free_when_all_have_gone_who_had_it_in_a_block_and_on_an_address() -> None:
    """One Pod has the number twice; another has it at the same time, on every address."""
    desk = Desk("n1")
    pods = [pod("a", "x:1=7000*8", "y:2=7003@10.0.0.1", at="n1"), pod("b", "x:1=7003", at="n1")]
    desk.observe(pods=pods)
    desk.observe(gone_pods=[pods[1].uid])
    desk.observe(gone_pods=[pods[0].uid])

    assert desk.refusal(ask("late", "x:1=7003", policy="Static")) == {}
