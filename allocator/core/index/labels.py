"""Which nodes constraints accept, found by index: label → value → nodes, name → node, taint → nodes.

`Constraints.accepts` is the rule, for one node. This module says the same of all nodes at once, as a bitmap over the
positions that its caller gives them, and its cost is that of the question:

* a requirement costs the values that it names, or those that its label has, whichever are fewer;
* a comparison costs a search in the numbers that its label has;
* taints are looked at by key and effect, their values once, however many tolerations and nodes there are.

Constraints are asked in their compiled form (`compiled`): values as sets, tolerations as look-ups. Whoever keeps that
form asks it of the index of one node (`LabelIndex.of`) when a node has changed, and no value is looked at again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from operator import or_
from typing import TypeVar

import msgspec

from allocator.core.candidates import (
    NAME_FIELD,
    Constraints,
    Node,
    NodeName,
    Requirement,
    Taint,
    Term,
    Toleration,
    integer_of,
)


class _Wish(msgspec.Struct, frozen=True, gc=False):
    """A requirement, its values as a set."""

    key: str
    operator: str
    values: frozenset[str]
    bound: int | None  # of Gt and Lt; None where there is no number


class _Choice(msgspec.Struct, frozen=True, gc=False):
    """A term that some node can satisfy."""

    expressions: tuple[_Wish, ...]
    fields: tuple[_Wish, ...]


class _Tolerated(msgspec.Struct, frozen=True, gc=False):
    """Tolerations as look-ups by key and effect. Empty text means any, as in a Toleration."""

    of_any_value: frozenset[tuple[str, str]]
    of_values: dict[tuple[str, str], frozenset[str]]

    def untolerated(self, key: str, effect: str, taints: _Label) -> int:
        """The nodes with a taint of this key and effect, by its value, with which the Pod does not live."""
        matching = [(k, e) for k in (key, "") for e in (effect, "")]
        if any(each in self.of_any_value for each in matching):
            return 0
        values = frozenset().union(*(self.of_values[each] for each in matching if each in self.of_values))
        return taints.besides(values) if values else taints.nodes


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Compiled constraints. `choices` None: any node will do."""

    node_name: NodeName | None
    selector: tuple[_Wish, ...]
    choices: tuple[_Choice, ...] | None
    tolerated: _Tolerated


def compiled(constraints: Constraints) -> Wanted:
    """The form in which constraints are asked; as large as they are."""
    return Wanted(
        constraints.node_name,
        tuple(_Wish(key, "In", frozenset((value,)), None) for key, value in constraints.selector),
        tuple(_choice(term) for term in constraints.affinity if term.expressions or term.fields)
        if constraints.affinity
        else None,
        _tolerated(constraints.tolerations),
    )


def _choice(term: Term) -> _Choice:
    return _Choice(tuple(map(_wish, term.expressions)), tuple(map(_wish, term.fields)))


def _wish(requirement: Requirement) -> _Wish:
    first = requirement.values[0] if requirement.values else ""
    bound = integer_of(first) if requirement.operator in {"Gt", "Lt"} else None
    return _Wish(requirement.key, requirement.operator, frozenset(requirement.values), bound)


def _tolerated(tolerations: tuple[Toleration, ...]) -> _Tolerated:
    of_values: dict[tuple[str, str], set[str]] = {}
    for each in tolerations:
        if each.compares_value:
            of_values.setdefault((each.key, each.effect), set()).add(each.value)
    return _Tolerated(
        frozenset((each.key, each.effect) for each in tolerations if not each.compares_value),
        {key: frozenset(values) for key, values in of_values.items()},
    )


class _Label:
    """The nodes that have a label, a field or a taint, by its value."""

    __slots__ = ("_ladder", "_numbers", "nodes", "of_value")

    def __init__(self) -> None:
        self.nodes = 0
        self.of_value: dict[str, int] = {}
        self._numbers: list[int] | None = None  # in order; None: to be counted anew
        self._ladder: list[int] = []  # the nodes up to and with each of them

    def add(self, value: str, bit: int) -> None:
        self.nodes |= bit
        self.of_value[value] = self.of_value.get(value, 0) | bit
        self._numbers = None

    def discard(self, value: str, bit: int) -> None:
        self.nodes &= ~bit
        left = self.of_value[value] & ~bit
        if left:
            self.of_value[value] = left
        else:
            del self.of_value[value]
        self._numbers = None

    def among(self, values: frozenset[str]) -> int:
        """The nodes with one of the values."""
        if len(values) == 1:
            (value,) = values
            return self.of_value.get(value, 0)
        nodes = 0
        if len(values) <= len(self.of_value):
            for value in values:
                nodes |= self.of_value.get(value, 0)
        else:
            for value, there in self.of_value.items():
                if value in values:
                    nodes |= there
        return nodes

    def besides(self, values: frozenset[str]) -> int:
        """The nodes with a value that is none of these. A node may have the same taint with two values."""
        nodes = 0
        for value, there in self.of_value.items():
            if value not in values:
                nodes |= there
        return nodes

    def above(self, bound: int) -> int:
        """The nodes with a greater number."""
        numbers = self._sorted()
        at = bisect_right(numbers, bound)
        return self._up_to(len(numbers)) & ~self._up_to(at)

    def below(self, bound: int) -> int:
        """The nodes with a lesser number."""
        return self._up_to(bisect_left(self._sorted(), bound))

    def _sorted(self) -> list[int]:
        if self._numbers is None:
            found: dict[int, int] = {}
            for value, nodes in self.of_value.items():
                number = integer_of(value)
                if number is not None:
                    found[number] = found.get(number, 0) | nodes
            self._numbers = sorted(found)
            self._ladder = list(accumulate((found[number] for number in self._numbers), or_))
        return self._numbers

    def _up_to(self, at: int) -> int:
        return self._ladder[at - 1] if at else 0


_NOWHERE = _Label()


class LabelIndex:
    """The known nodes by position, name, label and taint."""

    def __init__(self) -> None:
        self._at: dict[int, Node] = {}
        self._all = 0
        self._names = _Label()
        self._labels: dict[str, _Label] = {}
        self._taints: dict[tuple[str, str], _Label] = {}  # those that keep Pods away, by key and effect

    @classmethod
    def of(cls, node: Node) -> LabelIndex:
        """The index of one node."""
        index = cls()
        index.put(0, node)
        return index

    def put(self, position: int, node: Node) -> None:
        """The node is at the position now, whoever was there."""
        self.drop(position)
        bit = 1 << position
        self._at[position] = node
        self._all |= bit
        self._names.add(node.name, bit)
        for key, value in node.labels.items():
            self._labels.setdefault(key, _Label()).add(value, bit)
        for taint in _that_keep_away(node):
            self._taints.setdefault((taint.key, taint.effect), _Label()).add(taint.value, bit)

    def drop(self, position: int) -> None:
        """Nobody is at the position any more."""
        node = self._at.pop(position, None)
        if node is None:
            return
        bit = 1 << position
        self._all &= ~bit
        self._names.discard(node.name, bit)
        for key, value in node.labels.items():
            _discard_value(self._labels, key, value, bit)
        for taint in _that_keep_away(node):
            _discard_value(self._taints, (taint.key, taint.effect), taint.value, bit)

    def is_empty(self) -> bool:
        return not (self._at or self._all or self._names.nodes or self._labels or self._taints)

    def accepting(self, wanted: Wanted) -> int:
        """The nodes that the constraints accept."""
        if wanted.node_name is not None:
            return self._names.of_value.get(wanted.node_name, 0)
        nodes = self._chosen(wanted.choices)
        for wish in wanted.selector:
            nodes &= self._satisfying(self._labels.get(wish.key, _NOWHERE), wish)
        for (key, effect), taints in self._taints.items() if nodes else ():
            if taints.nodes & nodes:
                nodes &= ~wanted.tolerated.untolerated(key, effect, taints)
        return nodes

    def _chosen(self, choices: tuple[_Choice, ...] | None) -> int:
        if choices is None:
            return self._all
        chosen = 0
        for choice in choices:
            nodes = self._all
            for wish in choice.fields:
                nodes &= self._satisfying(self._names if wish.key == NAME_FIELD else _NOWHERE, wish)
            for wish in choice.expressions if nodes else ():
                nodes &= self._satisfying(self._labels.get(wish.key, _NOWHERE), wish)
            chosen |= nodes
        return chosen

    def _satisfying(self, label: _Label, wish: _Wish) -> int:
        """The nodes that satisfy a requirement on a label. An unknown operator accepts: too many, never too few."""
        match wish.operator:
            case "In":
                return label.among(wish.values)
            case "NotIn":
                return self._all & ~label.among(wish.values)
            case "Exists":
                return label.nodes
            case "DoesNotExist":
                return self._all & ~label.nodes
            case "Gt":
                return 0 if wish.bound is None else label.above(wish.bound)
            case "Lt":
                return 0 if wish.bound is None else label.below(wish.bound)
            case _:
                return self._all


def _that_keep_away(node: Node) -> set[Taint]:
    return {taint for taint in node.taints if taint.keeps_away}


K = TypeVar("K")


def _discard_value(labels: dict[K, _Label], key: K, value: str, bit: int) -> None:
    """Takes a node with a value out of a label; one without values is forgotten."""
    labels[key].discard(value, bit)
    if not labels[key].of_value:
        del labels[key]
