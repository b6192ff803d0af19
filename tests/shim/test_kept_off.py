"""A Pod is kept off the nodes that the allocator names, by terms of its required node affinity, and by nothing else."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from shimkit import FakeAllocator, Json, body, container, patched, pod, port, run

from allocator.core.candidates import NodeName
from hostport.contract.limits import MOST_STEERED, Bound
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.admission import AdmissionAnswer, admit
from shim.allocation_request import STEERED_BYTES
from shim.render import render_pods
from shim.steering import steering_ops
from testing.observing import parse_constraints

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
SSD = {"key": "disk", "operator": "In", "values": ["ssd"]}
ONLY = {"key": "metadata.name", "operator": "In", "values": ["n7"]}
PREFERRED = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}


def off(*names: str) -> list[Json]:
    return [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in names]


def terms(*found: Json | None) -> Json:
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(found)}}}


class Steering(FakeAllocator):
    """Names these nodes to whoever can steer."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = names
        self.asked: list[AllocateRequest] = []

    async def __call__(self, request: AllocateRequest) -> AllocateResponse:
        self.asked.append(request)
        answer = await super().__call__(request)
        answer.avoid_nodes.extend(self._names if request.can_steer else ())
        return answer


def settled(obj: Json, allocate: Steering, *, steers: bool = True) -> AdmissionAnswer:
    answer = run(admit(body(obj), allocate, probe=allocate, steers=steers))
    assert isinstance(answer, AdmissionAnswer)
    return answer


def asking(**spec: Any) -> Json:
    return pod(container("app", port("x", 80, hostPort=7000)), annotations={"policy": "Static"}, **spec)


AFFINITIES: dict[str, tuple[Json | None, Json]] = {
    "no affinity": (None, terms({"matchFields": off("n1", "n2")})),
    "an affinity to Pods": (
        {"podAffinity": {}},
        {"podAffinity": {}} | terms({"matchFields": off("n1", "n2")}),
    ),
    "a preferred node affinity": (
        {"nodeAffinity": PREFERRED},
        {"nodeAffinity": PREFERRED | terms({"matchFields": off("n1", "n2")})["nodeAffinity"]},
    ),
    "no requirement after all": (
        {"nodeAffinity": {REQUIRED: None}},
        terms({"matchFields": off("n1", "n2")}),
    ),
    "a term": (
        terms({"matchExpressions": [SSD]}),
        terms({"matchExpressions": [SSD], "matchFields": off("n1", "n2")}),
    ),
    "each of several terms": (
        terms({"matchExpressions": [SSD], "matchFields": []}, {"matchFields": [ONLY, *off("n9")]}),
        terms(
            {"matchExpressions": [SSD], "matchFields": off("n1", "n2")},
            {"matchFields": [ONLY, *off("n9"), *off("n1", "n2")]},
        ),
    ),
    "an empty term, which matches nothing": (
        terms({}, {"matchExpressions": [], "matchFields": None}, {"matchExpressions": [SSD]}),
        terms(
            {},
            {"matchExpressions": [], "matchFields": None},
            {"matchExpressions": [SSD], "matchFields": off("n1", "n2")},
        ),
    ),
    "a name that is excluded already": (
        terms({"matchFields": off("n2")}),
        terms({"matchFields": off("n2", "n1")}),
    ),
    "fields of a later Kubernetes": (
        terms({"matchFields": [ONLY | {"z": 1}], "z": 2}) | {"z": 3},
        terms({"matchFields": [ONLY | {"z": 1}, *off("n1", "n2")], "z": 2}) | {"z": 3},
    ),
}


@pytest.mark.parametrize(("before", "after"), AFFINITIES.values(), ids=AFFINITIES.keys())
@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
def test_the_names_stand_in_each_term_and_nothing_else_changes(
    before: Json | None, after: Json, is_large: bool
) -> None:
    obj = asking(affinity=before)
    obj["metadata"]["annotations"] |= {f"note/{at}": "x" * 1000 for at in range(100 if is_large else 0)}

    answer = settled(obj, Steering("n1", "n2"))
    stored = patched(obj, answer)

    assert stored["spec"]["affinity"] == after
    assert settled(stored, Steering("n1", "n2")).ops == (), "nothing is added twice"


@pytest.mark.parametrize(
    ("spec", "steers"),
    [
        ({"nodeName": "n1"}, True),
        ({"affinity": {"nodeAffinity": {REQUIRED: {}}}}, True),
        ({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}}, True),
        ({}, False),
    ],
    ids=["no scheduler is asked", "no terms: the API server refuses it", "an empty list likewise", "--steer=false"],
)
def test_who_is_not_steered_does_not_ask_for_it_and_keeps_its_affinity(spec: Json, steers: bool) -> None:
    obj, allocate = asking(**spec), Steering("n1")

    stored = patched(obj, settled(obj, allocate, steers=steers))

    assert [request.can_steer for request in allocate.asked] == [False]
    assert stored["spec"].get("affinity") == spec.get("affinity")


def test_a_patch_that_has_no_room_for_terms_is_made_without_them() -> None:
    many = [container(f"c{at}", *(port(f"p{at}-{n}", 1000 + n) for n in range(8))) for at in range(10)]
    allocate = Steering("n1")
    settled(pod(*many, annotations={"policy": "Dynamic"}), allocate)

    assert [request.can_steer for request in allocate.asked] == [False]


def test_whoever_names_no_node_gets_the_same_patch_as_ever() -> None:
    obj = asking()

    assert settled(obj, Steering()).ops == settled(obj, Steering("n1"), steers=False).ops


def test_a_rendered_pod_shows_where_it_is_kept_off() -> None:
    out, err = io.StringIO(), io.StringIO()
    rendering = render_pods([asking()], Steering("n1"), dry_run=True, output="yaml", out=out, err=err, steers=True)

    assert run(rendering) == 0
    assert yaml.safe_load(out.getvalue())["spec"]["affinity"] == terms({"matchFields": off("n1")})


REQUIREMENTS = st.sampled_from([SSD, ONLY, *off("n1"), {"key": "zone", "operator": "Exists"}])
TERMS = st.fixed_dictionaries(
    {},
    optional={"matchExpressions": st.lists(REQUIREMENTS.filter(lambda each: each["key"] != "metadata.name"))}
    | {"matchFields": st.lists(REQUIREMENTS.filter(lambda each: each["key"] == "metadata.name"))},
)


@given(found=st.lists(TERMS, min_size=1, max_size=3), names=st.sets(st.sampled_from(["n1", "n2", "n7"]), min_size=1))
def test_the_stored_pod_says_what_the_claim_says(found: list[Json], names: set[str]) -> None:
    obj = asking(affinity=terms(*found))

    stored = patched(obj, settled(obj, Steering(*sorted(names))))

    before, after = parse_constraints(obj["spec"]), parse_constraints(stored["spec"])
    assert after == before.kept_off(map(NodeName, sorted(names)))


@pytest.mark.parametrize("count", [0, 1, 2, 100])
@pytest.mark.parametrize("length", [1, 253])
@pytest.mark.parametrize("fields", [[], off("x")], ids=["terms without fields", "terms with fields"])
def test_what_keeps_a_pod_off_nodes_is_never_larger_than_it_was_foretold(
    count: int, length: int, fields: list[Json]
) -> None:
    found = [{"matchExpressions": [{"key": "k", "operator": "Exists"}], "matchFields": fields} for _ in range(count)]
    spec = {"affinity": terms(*found) if found else None}
    names = [f"{at:x}".rjust(length, "n") for at in range(MOST_STEERED)]
    while parse_constraints(spec).kept_off(map(NodeName, names)).weight > Bound.CONSTRAINTS.most:
        names.pop()  # the allocator names no more

    assert len(msgspec.json.encode(list(steering_ops(spec, names)))) <= STEERED_BYTES
