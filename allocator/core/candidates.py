"""On which nodes an owner may run: spec.nodeName, nodeSelector, required node affinity, taints.

The rule of this module: **too many candidates is allowed, too few never**. A node that is left out by mistake could
be handed a number that is taken there; a node too many only makes the search for a free number a little stricter. So
only what the scheduler is sure to refuse excludes a node. Cordons and the `node.kubernetes.io/*` taints come and go;
resource requests, volumes, pod affinity and spread are not modelled.

Sources: component-helpers nodeaffinity (terms are alternatives, requirements of a term all hold, a term without
requirements matches nothing), core/v1 toleration.ToleratesTaint, and the scheduler's TaintToleration plug-in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NewType

import msgspec
from msgspec.structs import replace

from allocator.core.addresses import NOWHERE, NodeAddress

NodeName = NewType("NodeName", str)

UNSCHEDULABLE_EFFECTS = frozenset({"NoSchedule", "NoExecute"})
NAME_FIELD = "metadata.name"
"""The one field of a node that node affinity knows."""

TRANSIENT_TAINTS = "node.kubernetes.io/"
_INTEGER = re.compile(r"[+-]?[0-9]{1,63}")  # a label's value has at most 63 characters


class Taint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """core/v1 Taint."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    @property
    def keeps_away(self) -> bool:
        """Whether a Pod that does not tolerate it never runs on the node. What comes and goes by itself does not."""
        return self.effect in UNSCHEDULABLE_EFFECTS and not self.key.startswith(TRANSIENT_TAINTS)


class Node(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What we need to know of a Node object."""

    name: NodeName
    uid: str = ""  # empty: not known
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    address: NodeAddress = NOWHERE  # that clients dial; decides nothing

    def is_another(self, uid: str) -> bool:
        """Whether a Node of this uid was made anew under the same name: it may be another machine."""
        return bool(self.uid and uid) and self.uid != uid

    def draws_as(self, other: Node) -> bool:
        """Whether the same constraints accept both: name, labels and taints are equal."""
        return self.name == other.name and self.labels == other.labels and self.taints == other.taints


class Toleration(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """core/v1 Toleration."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Whether the taint does not matter."""
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        return not self.compares_value or self.value == taint.value

    @property
    def compares_value(self) -> bool:
        """Whether the value counts. With an operator that we do not know it does not: too many, never too few."""
        return self.operator in ("", "Equal")


class Requirement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """core/v1 NodeSelectorRequirement."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def accepts(self, values: Mapping[str, str]) -> bool:
        """Whether the labels (or fields) satisfy it. An unknown operator accepts: too many, never too few."""
        value = values.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return self._compares(value)
            case _:
                return True

    def _compares(self, value: str | None) -> bool:
        have, bound = integer_of(value or ""), integer_of(self.values[0] if self.values else "")
        if have is None or bound is None:
            return False
        return have > bound if self.operator == "Gt" else have < bound


def integer_of(value: str) -> int | None:
    """The number that Gt and Lt compare; None where the value is none. As strconv.ParseInt has it."""
    return int(value) if _INTEGER.fullmatch(value) else None


class Term(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """core/v1 NodeSelectorTerm: all requirements hold; one without requirements matches nothing."""

    expressions: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def accepts(self, node: Node) -> bool:
        """Whether a node's labels and fields satisfy all requirements, and there is one."""
        if not self.expressions and not self.fields:
            return False
        return all(r.accepts(node.labels) for r in self.expressions) and all(
            r.accepts({NAME_FIELD: node.name}) for r in self.fields
        )


class Constraints(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where an owner may run. Hashable: equal constraints share one candidate set."""

    node_name: NodeName | None = None
    selector: tuple[tuple[str, str], ...] = ()
    affinity: tuple[Term, ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    def accepts(self, node: Node) -> bool:
        """Whether the owner may run on the node. With `node_name` nothing else is looked at: no scheduler is asked."""
        if self.node_name is not None:
            return node.name == self.node_name
        return (
            all(node.labels.get(key) == value for key, value in self.selector)
            and (not self.affinity or any(term.accepts(node) for term in self.affinity))
            and all(self._lives_with(taint) for taint in node.taints)
        )

    @property
    def only_node(self) -> NodeName | None:
        """The node that the constraints name, as nodeName or as the matchFields of a DaemonSet's Pod."""
        if self.node_name is not None or len(self.affinity) != 1 or len(self.affinity[0].fields) != 1:
            return self.node_name
        field_ = self.affinity[0].fields[0]
        is_named = field_.key == NAME_FIELD and field_.operator == "In" and len(field_.values) == 1
        return NodeName(field_.values[0]) if is_named else None

    def kept_off(self, names: Iterable[NodeName]) -> Constraints:
        """The same less some nodes: a requirement for each in each term, as the shim writes them into a Pod.

        One requirement has one name, as the API server wants it. A term without requirements matches nothing, and
        stays so.
        """
        away = tuple([Requirement(key=NAME_FIELD, operator="NotIn", values=(name,)) for name in names])
        if not self.affinity:
            return replace(self, affinity=(Term(fields=away),)) if away else self
        return replace(self, affinity=tuple([_kept_off(term, away) for term in self.affinity]))

    @property
    def excluded(self) -> frozenset[str]:
        """The names of nodes that each term excludes."""
        terms = [term for term in self.affinity if term.expressions or term.fields]
        named = [
            {
                name
                for each in term.fields
                if each.key == NAME_FIELD and each.operator == "NotIn"
                for name in each.values
            }
            for term in terms
        ]
        return frozenset(set[str].intersection(*named) if named else ())

    @property
    def weight(self) -> int:
        """The bytes that they take, about."""
        wishes = [wish for term in self.affinity for wish in (*term.expressions, *term.fields)]
        return (
            200
            + sum(200 + len(key) + len(value) for key, value in self.selector)
            + 150 * len(self.affinity)
            + sum(250 + len(wish.key) + 60 * len(wish.values) + sum(map(len, wish.values)) for wish in wishes)
            + sum(300 + len(each.key) + len(each.value) for each in self.tolerations)
        )

    def _lives_with(self, taint: Taint) -> bool:
        return not taint.keeps_away or any(toleration.tolerates(taint) for toleration in self.tolerations)


def _kept_off(term: Term, away: tuple[Requirement, ...]) -> Term:
    if not term.expressions and not term.fields:
        return term
    return replace(term, fields=(*term.fields, *[each for each in away if each not in term.fields]))


ANYWHERE = Constraints()
