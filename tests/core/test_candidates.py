"""Where an owner may run: a truth table for each rule."""

from __future__ import annotations

import pytest

from allocator.core.candidates import Constraints, Requirement, Taint, Term, Toleration
from testing.kit import node, on

SSD = node("n1", labels={"disk": "ssd", "cores": "8"})


def requirement(text: str) -> Requirement:
    key, operator, *values = text.split()
    return Requirement(key=key, operator=operator, values=tuple(values))


@pytest.mark.parametrize(
    ("text", "accepts"),
    [
        ("disk In ssd hdd", True),
        ("disk In hdd", False),
        ("zone In a", False),
        ("disk NotIn hdd", True),
        ("disk NotIn ssd", False),
        ("zone NotIn a", True),
        ("disk Exists", True),
        ("zone Exists", False),
        ("disk DoesNotExist", False),
        ("zone DoesNotExist", True),
        ("cores Gt 7", True),
        ("cores Gt 8", False),
        ("cores Lt 9", True),
        ("cores Lt 8", False),
        ("disk Gt 1", False),
        ("zone Lt 1", False),
        ("cores Gt many", False),
        ("disk Resembles ssd", True),  # an operator that we do not know: too many, never too few
    ],
)
def test_a_requirement_on_labels(text: str, accepts: bool) -> None:
    assert requirement(text).accepts(SSD.labels) is accepts
    assert Constraints(affinity=(Term(expressions=(requirement(text),)),)).accepts(SSD) is accepts


@pytest.mark.parametrize(
    ("constraints", "accepts"),
    [
        pytest.param(Constraints(), True, id="no constraint"),
        pytest.param(on("n1"), True, id="nodeName of this node"),
        pytest.param(on("n2"), False, id="nodeName of another"),
        pytest.param(Constraints(selector=(("disk", "ssd"),)), True, id="nodeSelector holds"),
        pytest.param(Constraints(selector=(("disk", "ssd"), ("zone", "a"))), False, id="nodeSelector holds in part"),
        pytest.param(
            Constraints(affinity=(Term(fields=(requirement("metadata.name In n1"),)),)), True, id="a DaemonSet's Pod"
        ),
        pytest.param(
            Constraints(affinity=(Term(fields=(requirement("metadata.name In n2"),)),)), False, id="that of another node"
        ),
        pytest.param(Constraints(affinity=(Term(),)), False, id="a term without requirements matches nothing"),
        pytest.param(
            Constraints(affinity=(Term(), Term(expressions=(requirement("disk Exists"),)))), True,
            id="terms are alternatives",
        ),
        pytest.param(
            Constraints(affinity=(Term(expressions=(requirement("disk Exists"), requirement("zone Exists"))),)), False,
            id="the requirements of a term all hold",
        ),
    ],
)  # fmt: skip
def test_constraints_on_a_node(constraints: Constraints, accepts: bool) -> None:
    assert constraints.accepts(SSD) is accepts


GPU = Taint(key="gpu", value="a100", effect="NoSchedule")


@pytest.mark.parametrize(
    ("taint", "tolerations", "accepts"),
    [
        pytest.param(GPU, [], False, id="not tolerated"),
        pytest.param(GPU, [Toleration(key="gpu", value="a100")], True, id="tolerated by value"),
        pytest.param(GPU, [Toleration(key="gpu", value="t4")], False, id="another value"),
        pytest.param(GPU, [Toleration(key="gpu", operator="Exists")], True, id="tolerated by key"),
        pytest.param(GPU, [Toleration(operator="Exists")], True, id="everything is tolerated"),
        pytest.param(GPU, [Toleration(key="gpu", operator="Exists", effect="NoExecute")], False, id="another effect"),
        pytest.param(
            GPU, [Toleration(key="gpu", operator="Gt", value="1")], True, id="an operator that we do not know"
        ),
        pytest.param(Taint(key="gpu", effect="NoExecute"), [], False, id="NoExecute excludes"),
        pytest.param(Taint(key="gpu", effect="PreferNoSchedule"), [], True, id="PreferNoSchedule only orders"),
        pytest.param(
            Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule"), [], True, id="node conditions come and go"
        ),
    ],
)
def test_taints_against_tolerations(taint: Taint, tolerations: list[Toleration], accepts: bool) -> None:
    tainted = node("n1", taints=(taint,))

    assert Constraints(tolerations=tuple(tolerations)).accepts(tainted) is accepts
    assert on("n1").accepts(tainted), "nodeName asks no scheduler"


def test_a_cordon_only_orders() -> None:
    assert Constraints().accepts(node("n1", unschedulable=True))
