"""The overlays that say where certificates come from, as conditions on `certificates.mode`.

Each patch of theirs becomes text that is there under its condition: what it adds to a list or a mapping, or the whole
object, where it deletes that. Other patches are refused, so that none is left out in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from spans import Document, Missing

DEPLOY = Path(__file__).resolve().parents[1]
NOT_BUILTIN = 'ne .Values.certificates.mode "builtin"'
CERT_MANAGER = 'eq .Values.certificates.mode "certManager"'
OVERLAYS = {"own-secrets": NOT_BUILTIN, "cert-manager": CERT_MANAGER}
"""Overlay → when its patches hold."""

Patch = tuple[dict[str, Any], str]
"""A patch, and when it holds."""


def overlay_patches() -> Iterator[Patch]:
    for name, condition in OVERLAYS.items():
        text = (DEPLOY / "overlays" / name / "kustomization.yaml").read_text(encoding="utf-8")
        for patch in yaml.safe_load(text)["patches"]:
            yield patch, condition


def matches(target: Mapping[str, str], document: Document) -> bool:
    """As kustomize does: each is a pattern for the whole word."""
    return all(
        re.fullmatch(target[key], value)
        for key, value in (("kind", document.kind), ("name", document.name))
        if key in target
    )


def patched(document: Document, patch: str, when: str) -> str:
    """Makes a patch a condition. Returns the condition for the whole object where the patch deletes it."""
    operations = yaml.safe_load(patch)
    if isinstance(operations, dict) and operations.get("$patch") == "delete":
        return f"not ({when})"
    for operation in operations:
        add(document, operation, when)
    return ""


def add(document: Document, operation: Mapping[str, Any], when: str) -> None:
    """One operation of a JSON patch: only what adds is understood."""
    path, value = operation["path"].strip("/"), operation["value"]
    parent, _, last = path.rpartition("/")
    if operation["op"] == "add" and last == "-":
        document.append(parent, f"- {flow(value)}", f"if {when}")
    elif operation["op"] == "add" and not document.has(path):
        document.append(parent, f"{last}: {flow(value)}", f"if {when}")
    else:
        raise Missing(f"{document.kind} {document.name}: the chart cannot tell what {operation['op']} {path} means")


def flow(value: Any) -> str:
    """On one line. Numbers stay as they are: 0440 is 288."""
    return json.dumps(value) if not isinstance(value, str) else value
