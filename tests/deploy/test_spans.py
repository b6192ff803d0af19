"""Edits to the text of a manifest: only what was asked for changes."""

from __future__ import annotations

import pytest
from spans import Document, Missing, as_template, documents

TEXT = """\
# What it is.
kind: Deployment
metadata:
  name: web # known to everybody
spec:
  args:
    - serve
    - --port=80 # plain
  limits: {cpu: 1, memory: 1Gi}
  volumes:
    - name: data
      size: 1
  last: >-
    folded
    text
---
# Another one.
kind: Service
metadata: {name: web}
"""


def web() -> Document:
    return next(documents(TEXT))


def changed(document: Document) -> dict[str, str]:
    """Each line that is not as it was, and what stands there now; what was put in stands behind the line before it."""
    before, after = TEXT.partition("---\n")[0].splitlines(), document.edited().splitlines()
    lines: dict[str, str] = {}
    at = 0
    for line in before:
        if line in after[at:]:
            found = after.index(line, at)
            if found > at:
                lines[before[before.index(line) - 1]] = "\n".join(after[at:found])
            at = found + 1
    if after[at:]:
        lines["the end"] = "\n".join(after[at:])
    return lines


def test_without_an_edit_an_object_is_its_text_with_the_comments_above_it() -> None:
    assert "---\n".join(document.edited() for document in documents(TEXT)) == TEXT


def test_a_value_is_replaced_and_the_comment_behind_it_stays() -> None:
    document = web()
    document.replace("spec/args/1", "<% .Values.x %>")
    document.replace("spec/last", "short")

    assert "    - <% .Values.x %> # plain\n" in document.edited()
    assert document.edited().endswith("  last: short\n")


def test_lines_are_put_behind_the_last_entry_as_deep_as_it() -> None:
    document = web()
    document.append("spec/args", "- --more", "if .Values.more")

    assert changed(document) == {"    - --port=80 # plain": "<%- if .Values.more %>\n    - --more\n<%- end %>"}


def test_what_is_deeper_ends_before_what_is_around_it() -> None:
    document = web()
    document.append("spec/volumes/0", "medium: Memory")
    document.wrap("spec/volumes", "if .Values.volumes")
    document.append("spec/volumes", "- name: more")

    assert document.edited().splitlines()[9:16] == [
        "<%- if .Values.volumes %>",
        "  volumes:",
        "    - name: data",
        "      size: 1",
        "      medium: Memory",
        "    - name: more",
        "<%- end %>",
    ]


def test_a_line_grows_inside_its_braces() -> None:
    document = web()
    document.append_inline("spec/limits", ", gpu: 1")

    assert "  limits: {cpu: 1, memory: 1Gi, gpu: 1}\n" in document.edited()


def test_several_entries_are_kept_under_one_condition() -> None:
    document = next(documents("kind: A\nmetadata: {name: a}\nlist:\n  - one\n  - two\n  - three\n"))
    document.wrap("list/1", "if .Values.x", until="list/2")

    assert document.edited() == (
        "kind: A\nmetadata: {name: a}\nlist:\n  - one\n<%- if .Values.x %>\n  - two\n  - three\n<%- end %>\n"
    )


def test_a_line_of_a_long_text_is_kept_under_a_condition() -> None:
    document = next(documents("kind: A\nmetadata:\n  name: a\ntext: >-\n  one\n  two\n  three\n"))
    document.wrap_text("  two\n", "if .Values.x")

    assert document.edited() == (
        "kind: A\nmetadata:\n  name: a\ntext: >-\n  one\n<%- if .Values.x %>\n  two\n<%- end %>\n  three\n"
    )


def test_a_line_that_is_not_there_is_named() -> None:
    document = next(documents("kind: A\nmetadata:\n  name: a\n"))

    with pytest.raises(Missing, match="A a has no line two"):
        document.wrap_text("  two\n", "if .Values.x")


def test_the_whole_object_is_kept_under_a_condition() -> None:
    service = list(documents(TEXT))[1]
    service.wrap_all("if .Values.service")

    assert service.edited() == (
        "<%- if .Values.service %>\n# Another one.\nkind: Service\nmetadata: {name: web}\n<%- end %>\n"
    )


@pytest.mark.parametrize("path", ["spec/nothing", "spec/args/2", "spec/args/serve", "kind/x"])
def test_a_path_that_leads_nowhere_is_named(path: str) -> None:
    with pytest.raises(Missing, match=f"Deployment web has no {path}"):
        web().replace(path, "x")


def test_two_edits_of_one_place_are_an_error() -> None:
    document = web()
    document.replace("spec/args", "x")
    document.replace("spec/args/0", "y")

    with pytest.raises(ValueError, match="Deployment web: two edits of one place"):
        document.edited()


def test_braces_of_a_manifest_are_not_helms() -> None:
    assert as_template("say {{ $labels.x }} to <% .Values.y %>") == 'say {{ "{{" }} $labels.x }} to {{ .Values.y }}'
