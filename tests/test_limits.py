"""The page on limits has the numbers that are checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hostport.contract.limits import (
    LARGEST_PATCH,
    LONGEST_ADDRESS,
    LONGEST_DESCRIPTION,
    LONGEST_NAME,
    LONGEST_REQUEST_ID,
    MOST_NUMBERS,
    MOST_PORTS,
    Bound,
)

ROOT = Path(__file__).resolve().parents[1]
CRD = yaml.safe_load((ROOT / "deploy" / "base" / "portlease-crd.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", PAGE.partition("## How large one Pod may be")[2], re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("ports", MOST_PORTS),
        ("numbers that the ports stand for, those of blocks counted one by one", MOST_NUMBERS),
        ("`hostport.io/block-` annotations", Bound.BLOCKS.most),
        ("terms of required node affinity", Bound.TERMS.most),
        ("expressions in all terms", Bound.EXPRESSIONS.most),
        ("values in all expressions", Bound.VALUES.most),
        ("entries of the node selector", Bound.SELECTOR.most),
        ("tolerations", Bound.TOLERATIONS.most),
        ("node selector, affinity and tolerations together, as sent", Bound.CONSTRAINTS.most),
        ("names, namespaces, uids", LONGEST_NAME),
        ("addresses (`hostIP`)", LONGEST_ADDRESS),
        ("containers and init containers", Bound.CONTAINERS.most),
        ("environment variables of all containers", Bound.ENV.most),
        ("annotations", Bound.ANNOTATIONS.most),
        ("annotations", Bound.ANNOTATION_BYTES.most),
        ("labels", Bound.LABELS.most),
        ("args and commands of all containers", Bound.COMMANDS.most),
        ("targets of `hostport.io/publish-` annotations", Bound.PUBLISHED.most),
        ("numbers that probes and hooks name and no port has", Bound.UNDECLARED.most),
        ("owner references, entries of managed fields", Bound.OWNERS.most),
        ("owner references, entries of managed fields", Bound.MANAGERS.most),
        ("sysctls", Bound.SYSCTLS.most),
        ("opening braces in a review above 64 KiB", Bound.OBJECTS.most),
        ("bytes of the patch, foretold before anything is allocated", LARGEST_PATCH),
    ],
)
def test_the_page_tells_each_bound(words: str, most: int) -> None:
    told = dict(ROWS)[words]

    assert f"{most:,}" in told or f"{most >> 10} KiB" in told


STORED = {
    "spec.owner.kind": LONGEST_NAME,
    "spec.owner.name": LONGEST_NAME,
    "spec.owner.uid": LONGEST_NAME,
    "spec.owner.description": LONGEST_DESCRIPTION,
    "status.node": LONGEST_NAME,
    "status.ports": MOST_PORTS,
    "status.ports.name": LONGEST_NAME,
    "status.ports.container": LONGEST_NAME,
    "status.ports.hostIP": LONGEST_ADDRESS,
    "status.request.id": LONGEST_REQUEST_ID,
}


@pytest.mark.parametrize(("field", "most"), STORED.items(), ids=STORED.keys())
def test_an_object_has_room_for_whatever_is_let_in(field: str, most: int) -> None:
    schema = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in field.split("."):
        schema = schema.get("items", schema)["properties"][name]

    assert schema.get("maxLength", schema.get("maxItems")) == most


def test_the_contract_tells_how_long_a_request_id_may_be() -> None:
    proto = (ROOT / "proto" / "hostport" / "v1" / "allocator.proto").read_text(encoding="utf-8")
    comment = proto.partition("message AllocateRequest {")[2].partition("string request_id")[0]

    assert f"At most {LONGEST_REQUEST_ID} characters" in " ".join(comment.replace("//", "").split())


def test_a_refusal_names_the_count_the_bound_and_the_remedy() -> None:
    assert Bound.TOLERATIONS.told(1257) == (
        '1,257 tolerations are more than 256. Use operator "Exists", which tolerates every value of a taint'
    )
