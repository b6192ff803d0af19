"""Pods of others may say more than an ask may. They are read as if they could run on more nodes: never on fewer."""

from __future__ import annotations

from typing import Any

import pytest

from allocator.core.candidates import Constraints, Toleration
from hostport.contract.limits import Bound
from testing.kit import node
from testing.observing import parse_constraints

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def affinity(terms: int, expressions: int = 1, values: int = 1) -> dict[str, Any]:
    required = {"key": "disk", "operator": "In", "values": [f"v{at}" for at in range(values)]}
    terms_ = [{"matchExpressions": [required] * expressions}] * terms
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms_}}}}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(affinity(Bound.TERMS.most + 1), id="terms"),
        pytest.param(affinity(2, expressions=Bound.EXPRESSIONS.most), id="expressions"),
        pytest.param(affinity(1, values=Bound.VALUES.most + 1), id="values"),
    ],
)
def test_more_affinity_than_an_ask_may_have_is_none(spec: dict[str, Any]) -> None:
    assert parse_constraints(spec) == Constraints()


def test_more_tolerations_than_an_ask_may_have_tolerate_everything() -> None:
    tolerations = [{"key": f"k{at}"} for at in range(Bound.TOLERATIONS.most + 1)]

    assert parse_constraints({"tolerations": tolerations}).tolerations == (Toleration(operator="Exists"),)


def test_of_a_long_selector_a_part_counts() -> None:
    labels = {f"k{at}": "v" for at in range(Bound.SELECTOR.most + 1)}
    constraints = parse_constraints({"nodeSelector": labels})

    assert len(constraints.selector) == Bound.SELECTOR.most
    assert constraints.accepts(node("n1", labels=labels))


def test_as_much_as_an_ask_may_have_is_read() -> None:
    constraints = parse_constraints(affinity(1, values=Bound.VALUES.most))

    assert len(constraints.affinity[0].expressions[0].values) == Bound.VALUES.most
