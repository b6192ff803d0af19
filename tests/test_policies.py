"""Each policy is everywhere: whatever a new one lacks fails here by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from allocator.core.place import policies as core
from hostport.contract import Reason
from hostport.contract.policies import DEFAULT_POLICY, POLICIES
from hostport.v1 import allocator_pb2 as pb
from testing.proved import check_named

ROOT = Path(__file__).parents[1]

PROVED = {
    "Index": "core/test_policy.py::test_a_policy_numbers_the_ports",
    "Dynamic": "core/test_plan.py::test_dynamic_takes_the_lowest_numbers_that_are_free",
    "Passthrough": "core/test_policy.py::test_a_policy_numbers_the_ports",
    "Static": "core/test_policy.py::test_a_policy_numbers_the_ports",
}
"""The test that shows which numbers each policy gives. Write one for a new policy, and name it here."""


def test_every_policy_has_a_test_that_shows_its_numbers() -> None:
    assert [name for name in POLICIES if name not in PROVED] == []


@pytest.mark.parametrize("name", PROVED)
def test_that_test_exists_and_names_the_policy(name: str) -> None:
    check_named(PROVED[name], name)


def test_a_test_whose_file_alone_names_a_thing_does_not_count() -> None:
    with pytest.raises(AssertionError, match="test_a_policy_numbers_the_ports does not say OWN_PORTS_COLLIDE"):
        check_named("core/test_policy.py::test_a_policy_numbers_the_ports", "OWN_PORTS_COLLIDE")
    with pytest.raises(AssertionError, match="test_nothing is not there"):
        check_named("core/test_policy.py::test_nothing", "Index")


def test_the_proto_has_a_value_for_each_policy_and_no_other() -> None:
    assert {"POLICY_UNSPECIFIED", *(terms.proto_name for terms in POLICIES.values())} == set(pb.Policy.keys())


def test_the_core_has_an_object_for_each_policy_and_no_other() -> None:
    assert list(core.POLICIES) == list(POLICIES)
    assert all(name == policy.name for name, policy in core.POLICIES.items())


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_POLICY in POLICIES


def test_who_names_another_is_told_of_each() -> None:
    assert all(f"`{name}`" in Reason.UNKNOWN_POLICY.condition for name in POLICIES)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/annotations.md", "docs/blocks.md", "docs/glossary.md", "docs/policies.md"]
)
def test_the_docs_tell_of_each_policy(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    assert [name for name in POLICIES if f"`{name}`" not in text] == []
