"""The typed projection and the reader of files say the same of every object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.decoding import JsonDecoder, ListMetadata, head_of_page
from allocator.cluster.kubernetes import PODS as POD_COLLECTION
from allocator.cluster.messages import observed_pod
from allocator.cluster.objects import as_message, enforced_level, parse_node
from allocator.cluster.projection import NamespaceSketch, NodeSketch, PodSketch
from allocator.cluster.sinks import MALFORMED, ValueInterner, level_of
from allocator.core.candidates import Requirement, Term
from allocator.core.claims import PortRejection, RejectedBy
from testing.encoding import binary
from testing.observing import parse_constraints, parse_pod

WORDS = st.sampled_from(["", "a", "b", "c-1", "NoSchedule", "Equal", "Exists", "In", "ü"])
JUNK = st.sampled_from([None, 1, "x", [], {}, [1], {"a": 1}])


OURS = {"hostport.io/allocation-id": "f" * 32}


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, and some that nobody knows."""
    return st.fixed_dictionaries({}, optional={**fields, "unknown": JUNK})


def lists(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(items, max_size=3)


NUMBERS = st.sampled_from([None, 0, 1, 80, 8000, 8001, 65535])
ODD_NUMBERS = NUMBERS | st.sampled_from([-(2**31), -1, 65536, 2**31 - 1])
TIMES = st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00+01:00", "1970-01-01T00:00:00Z", "x", "", None])
FULL = "0/3 nodes are available: 2 node(s) didn't have free ports for the requested pod ports. preemption: 0/3 nodes"
PREEMPTION = "0/1 nodes are available: 1 Too many pods. preemption: 1 node(s) didn't have free ports"
MESSAGES = st.sampled_from([FULL, PREEMPTION, "", None])
REQUIREMENTS = st.fixed_dictionaries({"key": WORDS, "operator": WORDS}, optional={"values": lists(WORDS)})
TERMS = objects(matchExpressions=lists(REQUIREMENTS), matchFields=lists(REQUIREMENTS))
CONDITIONS = objects(
    type=st.sampled_from(["Ready", "PodScheduled", "PodScheduled", "Odd", "", None]),
    status=st.sampled_from(["True", "False", "Unknown", "", None]),
    message=MESSAGES,
    lastTransitionTime=TIMES,
)
METADATA = {
    "namespace": WORDS,
    "uid": WORDS,
    "generateName": st.none() | WORDS,
    "resourceVersion": st.just("7"),
    "deletionTimestamp": st.sampled_from([None, "2026-01-01T00:00:00Z"]),
    "annotations": st.none()
    | st.dictionaries(
        st.sampled_from(["hostport.io/allocation-id", "hostport.io/warnings", "x"]),
        WORDS | st.just("PORT_MOVED,A_B,c,"),
    ),
    "ownerReferences": lists(objects(uid=WORDS, controller=st.none() | st.booleans())),
    "managedFields": JUNK,
}


def containers(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Containers whose ports have these numbers, some of them twice."""
    ports = objects(
        name=WORDS,
        containerPort=numbers,
        hostPort=numbers,
        protocol=st.sampled_from(["TCP", "UDP", "SCTP", "", None]) | st.just("tcp"),
        hostIP=st.sampled_from(["", "10.0.0.1", None]),
    )
    listed = lists(ports) | ports.map(lambda port: [port, port])
    return objects(name=WORDS, restartPolicy=st.sampled_from(["Always", "Never", "", None]), ports=listed)


def affinity(terms: Any) -> dict[str, Any]:
    """A node affinity with these terms."""
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


SPEC = {
    "nodeName": st.none() | WORDS,
    "hostNetwork": st.none() | st.booleans(),
    "containers": lists(containers(NUMBERS)),
    "initContainers": lists(containers(NUMBERS)),
    "nodeSelector": st.none() | st.dictionaries(WORDS, WORDS),
    "tolerations": lists(objects(key=WORDS, operator=WORDS, value=WORDS, effect=WORDS)),
    "priority": st.none() | st.sampled_from([-(2**31), -1, 0, 2**31 - 1]),
    "preemptionPolicy": st.sampled_from([None, "Never", "PreemptLowerPriority", ""]),
    "affinity": st.sampled_from([None, {}, {"nodeAffinity": None}]) | lists(TERMS).map(affinity),
}
STATUS = {
    "phase": st.sampled_from([None, "Pending", "Running", "Failed", "Succeeded", "Unknown", "Odd", ""]),
    "reason": st.sampled_from([None, "NodePorts", "Evicted", ""]),
    "conditions": lists(CONDITIONS),
}


WITHOUT_A_NAME = st.fixed_dictionaries({}, optional={"name": st.just(""), **METADATA})
PODS = objects(
    kind=st.just("Pod"),
    metadata=st.fixed_dictionaries({"name": st.just("p")}, optional=METADATA) | WITHOUT_A_NAME,
    spec=st.none() | objects(**SPEC),
    status=st.none() | objects(**STATUS),
)


def ours(spec: dict[str, Any], status: dict[str, Any]) -> Any:
    """Pods that carry an id, with all of these fields."""
    metadata = {"name": "p", "uid": "u", "annotations": OURS}
    return st.fixed_dictionaries(
        {"metadata": st.just(metadata), "spec": st.fixed_dictionaries(spec), "status": st.fixed_dictionaries(status)}
    )


NETWORK = {"hostNetwork": st.booleans(), "nodeName": st.sampled_from(["", "n1"])}
ODD_CONTAINERS = st.lists(containers(ODD_NUMBERS), min_size=1, max_size=2)
ODD_TERMS = st.fixed_dictionaries({"matchFields": st.lists(objects(key=WORDS, operator=WORDS), min_size=1, max_size=2)})
ODD_CONDITIONS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Ready", "PodScheduled"]),
        "status": st.sampled_from(["True", "False"]),
        "message": MESSAGES,
        "lastTransitionTime": TIMES,
    }
)
ODD_STATUS = {
    "phase": st.sampled_from(["Failed", "Failed", "Pending", "Odd"]),
    "reason": st.sampled_from(["NodePorts", "NodePorts", "Evicted", None]),
}
ODD_PODS = st.one_of(
    ours({**NETWORK, "containers": ODD_CONTAINERS}, {}),
    ours({**NETWORK, "initContainers": ODD_CONTAINERS}, {}),
    ours({"affinity": st.lists(ODD_TERMS, min_size=1, max_size=2).map(affinity)}, {}),
    ours(NETWORK, {**ODD_STATUS, "conditions": st.lists(ODD_CONDITIONS, max_size=3)}),
)
"""What an API server does not keep, and both encodings have; and what other Pods seldom have."""
PODS_WITH_TEXT = objects(
    metadata=st.just({"name": "p"}), spec=objects(containers=lists(containers(NUMBERS | st.just("80"))))
)
"""Text in the place of numbers, which only JSON has."""
NODES = objects(
    metadata=st.fixed_dictionaries(
        {"name": st.just("n")}, optional={"labels": st.none() | st.dictionaries(WORDS, WORDS)}
    ),
    spec=st.none()
    | objects(
        taints=lists(st.fixed_dictionaries({"key": WORDS}, optional={"value": WORDS, "effect": WORDS})),
        unschedulable=st.none() | st.booleans(),
    ),
)


def outcome(read: Any, *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except MALFORMED:
        return "malformed"


def event_of(reader: JsonDecoder[Any], obj: Any) -> Any:
    return reader.event(json.dumps({"type": "ADDED", "object": obj}).encode()).object


@given(PODS | ODD_PODS | PODS_WITH_TEXT)
def test_pods_are_read_as_from_a_file(obj: dict[str, Any]) -> None:
    sketch = event_of(JsonDecoder(PodSketch), obj)
    pod = outcome(parse_pod, obj)

    assert outcome(ValueInterner().pod, sketch) == pod
    if pod != "malformed":
        assert sketch.holds_something() or not (pod.carried_id or (pod.ports and not pod.is_finished))
        assert sketch.identity in (pod.uid, "")


@given(NODES)
def test_nodes_are_read_as_from_a_file(obj: dict[str, Any]) -> None:
    assert outcome(ValueInterner().node, event_of(JsonDecoder(NodeSketch), obj)) == outcome(parse_node, obj)


@pytest.mark.parametrize("level", [None, "baseline", "restricted", "privileged", "x"])
def test_namespaces_are_read_as_from_a_file(level: str | None) -> None:
    obj = {"metadata": {"name": "a", "labels": {"pod-security.kubernetes.io/enforce": level} if level else None}}
    sketch = event_of(JsonDecoder(NamespaceSketch), obj)

    assert ((sketch.identity, level_of(sketch)) if level_of(sketch) else None) == enforced_level(obj)


@given(st.lists(PODS | PODS_WITH_TEXT | JUNK | st.fixed_dictionaries({"metadata": JUNK, "spec": JUNK}), max_size=4))
def test_a_page_has_an_item_for_each_object_whatever_it_is(items: list[Any]) -> None:
    body = json.dumps({"metadata": {"resourceVersion": "9", "continue": "t"}, "items": items}).encode()
    page = JsonDecoder(PodSketch).page(body)

    assert (page.metadata.resource_version, page.metadata.continue_) == ("9", "t")
    assert len(page.items or ()) == len(items)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b'{"items": []}', b'{"type": "ADDED"}', b"\xff\xfe"])
def test_what_is_no_list_and_no_event_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        JsonDecoder(PodSketch).page(text)
    with pytest.raises(ValueError, match=r"."):
        JsonDecoder(PodSketch).event(text)


FIRST = b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"t","remainingItemCount":9}'
HEADS = {
    "all of it": (FIRST + b',"items":[]}', ListMetadata(resource_version="7", continue_="t", remaining_item_count=9)),
    "cut off in the first item": (FIRST + b',"items":[{"met', ListMetadata("7", "t", 9)),
    "the last page": (b'{"metadata":{"resourceVersion":"7"},"items":[{', ListMetadata(resource_version="7")),
    "cut off before the items": (FIRST + b',"ite', None),
    "items first": (b'{"items":[{"metadata":{"continue":"t"}}', None),
    "other items first": (b'{"spec":{"a":1,"items":[{"metadata":{}}]},"metadata":{}', None),
    "metadata that is none": (b'{"metadata":7,"items":[', None),
}


@pytest.mark.parametrize(("begin", "head"), HEADS.values(), ids=HEADS)
def test_the_first_bytes_of_a_page_tell_of_the_next(begin: bytes, head: ListMetadata | None) -> None:
    assert head_of_page(begin) == head


def test_equal_parts_of_different_pods_are_one_object() -> None:
    shared = ValueInterner()
    spec = {"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 1}]}], "nodeName": "n"}
    one, two = (
        shared.pod(event_of(JsonDecoder(PodSketch), {"metadata": {"name": name, "uid": name}, "spec": spec}))
        for name in ("a", "b")
    )

    assert one.ports is two.ports
    assert one.constraints is two.constraints


@pytest.mark.parametrize(
    ("annotations", "spec", "expected"),
    [
        pytest.param({"hostport.io/warnings": "PORT_MOVED"}, {}, (True, ""), id="none of ours"),
        pytest.param({}, {"hostNetwork": True}, (False, ""), id="none of ours, on the host's network"),
        pytest.param(OURS, {"hostNetwork": True}, (False, ""), id="on the host's network"),
        pytest.param(OURS, {}, (True, ""), id="in its own"),
        pytest.param(
            OURS | {"hostport.io/warnings": "PORT_MOVED,OLD_NUMBER"}, {}, (True, "PORT_MOVED,OLD_NUMBER"), id="warned"
        ),
        pytest.param(OURS | {"hostport.io/warnings": "A,<b>,,x y,B"}, {}, (True, "A,B"), id="what is no word"),
        pytest.param(
            OURS | {"hostport.io/warnings": ",".join(f"W{at}" for at in range(40))},
            {},
            (True, ",".join(f"W{at}" for at in range(32))),
            id="more than there are",
        ),
    ],
)
def test_the_network_of_pods_and_the_warnings_of_ours_are_read(
    annotations: dict[str, str], spec: dict[str, Any], expected: tuple[bool, str]
) -> None:
    obj = {"kind": "Pod", "metadata": {"name": "p", "uid": "u", "annotations": annotations}, "spec": spec}

    pod = ValueInterner().pod(event_of(JsonDecoder(PodSketch), obj))

    assert (pod.own_network, pod.warnings) == expected


SINCE = "2026-11-29T10:00:00Z"
ON_HOST = {"hostNetwork": True, "nodeName": "n1"}


def condition(**changes: Any) -> dict[str, Any]:
    return {"type": "Ready", "status": "True", "lastTransitionTime": SINCE, **changes}


@pytest.mark.parametrize(
    ("annotations", "spec", "conditions", "expected"),
    [
        pytest.param(OURS, ON_HOST, [condition(type="PodScheduled"), condition()], 1795946400.0, id="ready"),
        pytest.param(OURS, ON_HOST, [condition(status="False")], None, id="not ready"),
        pytest.param(OURS, ON_HOST, [condition(lastTransitionTime=None)], None, id="nobody says since when"),
        pytest.param(OURS, ON_HOST, [condition(type="ContainersReady")], None, id="another condition"),
        pytest.param(OURS, ON_HOST, [], None, id="no condition"),
        pytest.param({}, ON_HOST, [condition()], None, id="none of ours"),
        pytest.param(OURS, {"nodeName": "n1"}, [condition()], None, id="in its own network"),
        pytest.param(OURS, {"hostNetwork": True}, [condition()], None, id="on no node"),
    ],
)
def test_since_when_a_pod_is_ready_is_read_where_its_program_is_expected_to_listen(
    annotations: dict[str, str], spec: dict[str, Any], conditions: list[dict[str, Any]], expected: float | None
) -> None:
    metadata = {"name": "p", "uid": "u", "annotations": annotations}
    obj = {"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"conditions": conditions}}
    in_json = event_of(JsonDecoder(PodSketch), obj)
    in_protobuf = POD_COLLECTION.reader.one(binary("Pod", obj))

    assert [ValueInterner().pod(seen).ready_at for seen in (in_json, in_protobuf)] == [expected, expected]


def refused(message: str) -> dict[str, Any]:
    """What the scheduler writes into a Pod that it found no node for."""
    return {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        pytest.param({}, refused(FULL), PortRejection(RejectedBy.SCHEDULER, 2), id="by the scheduler"),
        pytest.param({}, refused(PREEMPTION), None, id="for another reason"),
        pytest.param({"nodeName": "n1"}, refused(FULL), None, id="before it was scheduled"),
        pytest.param(
            {"nodeName": "n1"},
            {"phase": "Failed", "reason": "NodePorts"},
            PortRejection(RejectedBy.KUBELET),
            id="failed",
        ),
        pytest.param({"nodeName": "n1"}, {"phase": "Failed", "reason": "Evicted"}, None, id="failed otherwise"),
        pytest.param({"nodeName": "n1"}, {"phase": "Running", "reason": "NodePorts"}, None, id="running"),
    ],
)
@pytest.mark.parametrize("network", [{}, {"hostNetwork": True}], ids=["its own network", "the host's network"])
def test_what_kubernetes_says_of_a_pods_ports_is_read_alike_from_all_sources(
    network: dict[str, Any], spec: dict[str, Any], status: dict[str, Any], expected: PortRejection | None
) -> None:
    obj = {"metadata": {"name": "p", "uid": "u", "annotations": OURS}, "spec": network | spec, "status": status}
    seen = [event_of(JsonDecoder(PodSketch), obj), POD_COLLECTION.reader.one(binary("Pod", obj))]

    assert [each.rejection for each in (parse_pod(obj), *map(ValueInterner().pod, seen))] == [expected] * 3


@pytest.mark.parametrize("empty", ["", None])
def test_a_requirement_whose_parts_are_empty_lacks_none(empty: str | None) -> None:
    term = {"matchExpressions": [{"key": empty, "operator": empty, "values": None}]}

    assert parse_constraints({"affinity": affinity([term])}).affinity == (
        Term(expressions=(Requirement(key="", operator=""),)),
    )


@pytest.mark.parametrize("missing", ["key", "operator"])
def test_a_requirement_that_lacks_a_part_is_malformed_in_all_sources(missing: str) -> None:
    term = {"matchExpressions": [{name: "a" for name in ("key", "operator") if name != missing}]}
    obj = {"metadata": {"name": "p"}, "spec": {"affinity": affinity([term])}}
    in_json, in_protobuf = event_of(JsonDecoder(PodSketch), obj), POD_COLLECTION.reader.one(binary("Pod", obj))

    for fields in (as_message(obj, pb.Pod), in_json.fields(), in_protobuf.fields()):
        with pytest.raises(ValueError, match="has no key, or no operator"):
            observed_pod(fields)
