"""Every row of the table of annotations has a parser, a page and a test, and no page names one that has no row."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from shimkit import FakeAllocator, Json, body, container, decide, pod, port, shown

from hostport.contract import defaults
from hostport.contract.annotations import PREFIX, Annotation, Writer
from hostport.contract.limits import HIGHEST_PORT
from hostport.contract.pages import DOCS
from shim import annotations as ours
from shim.annotations import parse_settings
from shim.review import ToAllocate, parse_review
from testing.proved import check_named

ROOT = DOCS.parent
OF_USERS = [row for row in Annotation if row.writer is Writer.USER and not row.is_prefix]
OF_THE_SHIM = [row for row in Annotation if row.writer is Writer.SHIM]
LISTED = [(row, value) for row in OF_USERS for value in row.values]

PROVED = {
    Annotation.ENABLED: "test_review.py::test_who_does_not_ask_is_left_alone",
    Annotation.POLICY: "test_review.py::test_other_policies_need_no_index",
    Annotation.MIN_PORT: "test_review.py::test_range_and_stride_are_always_explicit",
    Annotation.MAX_PORT: "test_review.py::test_range_and_stride_are_always_explicit",
    Annotation.STRIDE: "test_review.py::test_range_and_stride_are_always_explicit",
    Annotation.DNS_POLICY: "test_review.py::test_options_are_for_the_patch",
    Annotation.INJECT_ENV: "test_review.py::test_options_are_for_the_patch",
    Annotation.WHEN_FULL: "test_review.py::test_when_full_is_passed_on",
    Annotation.NETWORK: "test_programs.py::test_in_a_network_of_its_own_only_the_host_port_is_set",
    Annotation.REWRITE: "test_programs.py::test_what_was_rewritten_and_what_was_left_is_listed",
    Annotation.COOL_DOWN: "test_review.py::test_a_cool_down_is_passed_on",
    Annotation.PUBLISH: "test_programs.py::test_a_number_is_written_where_the_program_looks",
    Annotation.BLOCK: "test_pod_blocks.py::test_a_block_is_asked_for_as_one_port",
    Annotation.ALLOCATED: "test_exposed_annotations.py::test_the_name_of_an_annotation",
    Annotation.ALLOCATIONS: "test_exposed_annotations.py::test_the_table_can_be_read_back_both_ways",
    Annotation.ALLOCATION_ID: "test_exposed_annotations.py::test_the_table_can_be_read_back_both_ways",
    Annotation.WARNINGS: "test_programs.py::test_a_finding_says_what_where_and_what_to_do_and_stands_in_the_pod",
    Annotation.EXTERNAL_IP: "test_binding.py::test_what_is_known_is_told",
    Annotation.EXTERNAL_IP_V4: "test_binding.py::test_what_is_known_is_told",
    Annotation.EXTERNAL_IP_V6: "test_binding.py::test_what_is_known_is_told",
    Annotation.REWRITTEN: "test_programs.py::test_what_was_rewritten_and_what_was_left_is_listed",
}
"""The test that shows what each annotation does, or holds. Write one for a new row, and name it here."""


def denials(row: Annotation, value: str) -> list[str]:
    """The fields that are wrong in a Pod whose only setting is this one."""
    settings = {ours.ENABLED: "true", row.text: value}
    return [mistake.field for mistake in parse_settings(settings)[1]]


def test_every_annotation_has_a_test_that_shows_what_it_does() -> None:
    assert [row.text for row in Annotation if row not in PROVED] == []


@pytest.mark.parametrize("row", PROVED, ids=lambda row: row.text)
def test_that_test_exists_and_names_the_annotation(row: Annotation) -> None:
    check_named(f"shim/{PROVED[row]}", row.text.removeprefix(PREFIX))


@pytest.mark.parametrize(("row", "value"), LISTED, ids=[f"{row.text}={value}" for row, value in LISTED])
def test_every_value_of_the_table_is_taken_and_named_in_the_docs(row: Annotation, value: str) -> None:
    assert denials(row, value) == [] or (row, value) == (Annotation.ENABLED, "false")  # then nothing else is read
    assert f"`{value}`" in row.meaning or f'`"{value}"`' in row.meaning + row.default


@pytest.mark.parametrize("row", OF_USERS, ids=lambda row: row.text)
def test_any_other_value_is_denied(row: Annotation) -> None:
    nonsense = "nonsense " * 40  # no free text is as long
    told = "shim.annotations.parse_settings does not read it, or sets its text no bound"
    assert denials(row, nonsense) == [f"annotation {row.text}"], told


@pytest.mark.parametrize("row", OF_USERS, ids=lambda row: row.text)
def test_what_the_shim_knows_is_in_the_table(row: Annotation) -> None:
    assert row.text in ours.WRITTEN


def test_the_shim_knows_nothing_else() -> None:
    assert set(ours.WRITTEN) == {row.text for row in OF_USERS}
    assert set(ours.FOUND) == {row.text for row in OF_THE_SHIM if not row.is_prefix}


def test_the_defaults_that_are_told_are_those_that_are_meant() -> None:
    settings, _ = parse_settings({ours.ENABLED: "true"})

    assert settings.numbers == (defaults.MIN_PORT, defaults.MAX_PORT, defaults.STRIDE)
    assert parse_settings({ours.ENABLED: "true", ours.MIN_PORT: "65000"})[0].numbers == (
        65000,
        HIGHEST_PORT,
        defaults.STRIDE,
    )


EXAMPLES = {
    Annotation.ENABLED: "true",
    Annotation.POLICY: "Index",
    Annotation.MIN_PORT: "20000",
    Annotation.MAX_PORT: "20000",
    Annotation.STRIDE: "7",
    Annotation.DNS_POLICY: "Keep",
    Annotation.INJECT_ENV: "false",
    Annotation.WHEN_FULL: "Pending",
    Annotation.NETWORK: "Pod",
    Annotation.REWRITE: "true",
    Annotation.COOL_DOWN: "10m",
    Annotation.PUBLISH: "env:PORT, annotation:example.com/port, label:example.com/port",
    Annotation.BLOCK: "100 even",
}
"""A value of each annotation of users that does something. Write one for a new row."""


def test_every_annotation_of_users_has_an_example() -> None:
    assert [row.text for row in Annotation if row.writer is Writer.USER and row not in EXAMPLES] == []


@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: row.text)
def test_what_an_annotation_adds_to_a_patch_is_foretold(row: Annotation) -> None:
    usual = {"policy": "Index" if row is Annotation.STRIDE else "Dynamic"}  # under which it is no cause for a warning
    key = row.text.removeprefix(PREFIX) + "web" * row.is_prefix
    less, foretold_less = patch_and_foretold(usual)
    more, foretold_more = patch_and_foretold(usual | {key: EXAMPLES[row]})

    told = "shim.allocation_request.rough_patch_bytes and shim.sizes.patch_bytes do not count what it adds"
    assert more - less <= foretold_more - foretold_less, told


def patch_and_foretold(annotations: Json) -> tuple[int, int]:
    """The bytes of a Pod's patch, and how many they were said to be at most."""
    made = pod(container("a", port("web", 80), args=["--port=80"]), annotations=annotations)
    found = parse_review(body(made))
    assert isinstance(found, ToAllocate)
    return len(base64.b64decode(shown(decide(made, FakeAllocator()))["response"]["patch"])), found.patch_size


PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((ROOT / "examples").glob("*.yaml")),
    *sorted((ROOT / "deploy" / "chart" / "hostport-operator").rglob("*.txt")),
    *sorted((ROOT / "deploy" / "chart" / "hostport-operator" / "templates").glob("*.yaml")),
]
OTHERS = {
    "v1alpha1",
    "serving",
    "docs/",
    "allocator-client",
    "webhook",
    "external-address",
    "holder-pod",
    "journal",
    "handed-over",
    "reached",
}
"""What else stands behind hostport.io/: an API version, labels, annotations of other objects, the site."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_an_annotation_that_does_not_exist(page: Path) -> None:
    found = set(re.findall(r"(?<![\w.])hostport\.io/([a-z0-9-]+/?)", page.read_text(encoding="utf-8")))
    known = {row.text.removeprefix(PREFIX) for row in Annotation}
    prefixes = tuple(row.text.removeprefix(PREFIX) for row in Annotation if row.is_prefix)

    assert {name for name in found - known - OTHERS if not name.startswith(prefixes)} == set()
