"""Candidate nodes by index: the same nodes as the rule for one node names, after whatever came and went."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.core.candidates import Constraints, Node, NodeName, Requirement, Taint, Term, Toleration
from allocator.core.index.labels import LabelIndex, Wanted, compiled
from allocator.core.index.ports import PortIndex
from testing.costing import counting
from testing.kit import Desk, ask, node, on

KEYS = st.sampled_from(["zone", "disk", "cores"])
VALUES = st.sampled_from(["a", "b", "8", "08", "16", "-3", "+8", "1_0", " 8", "", "many"])
EFFECTS = st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"])
TAINT_KEYS = st.sampled_from(["gpu", "team", "node.kubernetes.io/not-ready"])
NAMES = st.sampled_from([f"n{at}" for at in range(6)])

taints = st.builds(Taint, key=TAINT_KEYS, value=VALUES, effect=EFFECTS)
nodes = st.builds(
    lambda name, labels, marks: node(name, labels=labels, taints=tuple(marks)),
    NAMES,
    st.dictionaries(KEYS, VALUES, max_size=3),
    st.lists(taints, max_size=2),
)
OPERATORS = st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Resembles"])
expressions = st.builds(Requirement, key=KEYS, operator=OPERATORS, values=st.lists(VALUES, max_size=4).map(tuple))
fields = st.builds(
    Requirement,
    key=st.sampled_from(["metadata.name", "metadata.uid"]),
    operator=OPERATORS,
    values=st.lists(NAMES, max_size=3).map(tuple),
)
terms = st.builds(
    Term,
    expressions=st.lists(expressions, max_size=3).map(tuple),
    fields=st.lists(fields, max_size=2).map(tuple),
)
tolerations = st.builds(
    Toleration,
    key=st.one_of(st.just(""), TAINT_KEYS),
    operator=st.sampled_from(["", "Equal", "Exists", "Gt"]),
    value=VALUES,
    effect=st.one_of(st.just(""), EFFECTS),
)
constraints = st.builds(
    Constraints,
    node_name=st.one_of(st.none(), st.none(), NAMES.map(NodeName)),
    selector=st.lists(st.tuples(KEYS, VALUES), max_size=2).map(tuple),
    affinity=st.lists(terms, max_size=3).map(tuple),
    tolerations=st.lists(tolerations, max_size=3).map(tuple),
)
changes = st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), nodes)), max_size=12)


@settings(max_examples=300)
@given(changes, st.lists(constraints, min_size=1, max_size=4))
def test_the_index_accepts_the_nodes_that_the_rule_accepts(
    happened: list[tuple[int, Node | None]], asked: list[Constraints]
) -> None:
    index = LabelIndex()
    known: dict[int, Node] = {}
    for position, seen in happened:
        if seen is None:
            index.drop(position)
            known.pop(position, None)
        else:
            index.put(position, seen)
            known[position] = seen
        for each in asked:
            expected = {at for at, there in known.items() if each.accepts(there)}
            wanted = compiled(each)
            assert {at for at in range(6) if index.accepting(wanted) >> at & 1} == expected
            if seen is not None:
                assert LabelIndex.of(seen).accepting(wanted) == each.accepts(seen)


def test_what_is_gone_leaves_nothing_in_the_index() -> None:
    index = LabelIndex()
    index.put(3, node("n1", labels={"disk": "ssd"}, taints=(Taint(key="gpu"),)))
    index.put(3, node("n2", labels={"zone": "a"}))
    index.drop(3)
    index.drop(3)

    assert index.is_empty()


# 5,000 nodes with the labels that clouds give, one of them different on each node, and a taint on each.
@pytest.fixture(scope="module")
def large() -> LabelIndex:
    index = LabelIndex()
    for at in range(5000):
        labels = {f"label-{n}": f"value-{at % (n + 2)}" for n in range(20)}
        labels |= {"kubernetes.io/hostname": f"n{at}", "number": str(at)}
        index.put(at, node(f"n{at}", labels=labels, taints=(Taint(key="dedicated", value=f"team-{at}"),)))
    return index


EVERYTHING = (Toleration(operator="Exists"),)


def wants(*required: Requirement, copies: int = 1) -> Constraints:
    return Constraints(affinity=tuple(Term(expressions=required) for _ in range(copies)), tolerations=EVERYTHING)


@pytest.mark.parametrize(
    ("asked", "count", "most"),
    [
        pytest.param(on("n4999"), 1, 1_000, id="nodeName"),
        pytest.param(
            Constraints(
                affinity=(Term(fields=(Requirement(key="metadata.name", operator="In", values=("n4999",)),)),),
                tolerations=EVERYTHING,
            ),
            1, 2_000, id="a DaemonSet's Pod",
        ),
        pytest.param(wants(Requirement(key="label-3", operator="Exists")), 5000, 2_000, id="a label"),
        pytest.param(
            wants(*[Requirement(key=f"label-{n % 20}", operator="NotIn", values=("x",)) for n in range(10)], copies=100),
            5000, 200_000, id="100 terms of 10 expressions",
        ),
        pytest.param(
            wants(Requirement(key="label-18", operator="NotIn", values=tuple(f"x{n}" for n in range(130_000)))),
            5000, 2_000, id="130,000 values",
        ),
        pytest.param(
            wants(*[Requirement(key="number", operator="Gt", values=(str(n),)) for n in range(1000)]),
            4000, 800_000, id="1,000 comparisons",
        ),
        pytest.param(
            Constraints(tolerations=tuple(Toleration(key="dedicated", value=f"team-{n}") for n in range(1000))),
            1000, 250_000, id="1,000 tolerations against 5,000 taints",
        ),
    ],
)  # fmt: skip
def test_what_is_asked_costs_its_own_size_not_that_of_the_cluster(
    large: LabelIndex, asked: Constraints, count: int, most: float
) -> None:
    with counting() as cost:
        assert large.accepting(compiled(asked)).bit_count() == count
    assert cost.instructions < most


# -- what a Node that changed costs those who kept candidates


@pytest.mark.parametrize(
    ("seen", "judged"),
    [
        pytest.param({"labels": {"disk": "ssd"}}, 0, id="as it was"),
        pytest.param({"labels": {"disk": "ssd"}, "unschedulable": True}, 0, id="cordoned"),
        pytest.param({"labels": {"disk": "hdd"}}, 3, id="another label"),
        pytest.param({"labels": {"disk": "ssd"}, "taints": (Taint(key="gpu"),)}, 3, id="a taint"),
    ],
)
def test_a_node_that_changed_is_judged_once_for_each_kept_candidate_set_and_only_where_that_can_matter(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], judged: int
) -> None:
    sets = PortIndex({}).sets
    for at in range(20):
        sets.put_node(node(f"n{at}", labels={"disk": "ssd"}))
    for value in ("ssd", "hdd", "tape"):
        sets.of(Constraints(selector=(("disk", value),)))
    asked: list[Wanted] = []
    accepting = LabelIndex.accepting

    def counted(index: LabelIndex, wanted: Wanted) -> int:
        asked.append(wanted)
        return accepting(index, wanted)

    monkeypatch.setattr(LabelIndex, "accepting", counted)
    sets.put_node(node("n3", **seen))

    assert len(asked) == judged


def test_candidate_sets_of_large_constraints_are_kept_only_while_somebody_needs_them() -> None:
    desk = Desk(*[node(f"n{at}", labels={"disk": "ssd"}) for at in range(3)])

    def large(at: int) -> Constraints:
        values = tuple(f"{at}-{value:040}" for value in range(1000))
        return Constraints(affinity=(Term(expressions=(Requirement(key="disk", operator="NotIn", values=values),)),))

    waits = desk.grant(ask("waits", "web:80", constraints=large(0)))
    for at in range(1, 9):
        desk.ledger.preview(ask(f"asks-{at}", "web:80", constraints=large(at)), desk.now)
    sets = desk.ledger._store.sets
    assert list(sets._sets) == [large(0), large(8)]

    desk.ledger.end(waits.id, desk.now)
    desk.ledger.preview(ask("last", "web:80", constraints=Constraints(selector=(("disk", "ssd"),))), desk.now)

    assert list(sets._sets) == [Constraints(selector=(("disk", "ssd"),))]
