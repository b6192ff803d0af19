"""A large review is read as a small one is: what is passed over changes nothing of what is said."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from hostport.contract import Reason
from hostport.contract.limits import Bound
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.admission import admit
from shim.review import Denied, NotOurs, ReviewError, parse_review
from shim.sizes import AFFINITY
from shim.skim import SMALL, TooComplexError, skim

Json = dict[str, Any]
PADDING = {"status": {"ignored": [{}] * 100, "text": "x" * SMALL}}


def pod(spec: Json | None = None, container: Json | None = None, **metadata: Any) -> Json:
    made: Json = {"name": "web-0", "namespace": "demo", "annotations": {"hostport.io/enabled": "true"}}
    app = {"name": "app", "image": "x", "ports": [{"name": "http", "containerPort": 8080}]} | (container or {})
    return {"metadata": made | metadata, "spec": {"containers": [app]} | (spec or {})}


def review(obj: Json | None, **request: Any) -> Json:
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    asked = {"uid": "u-1", "kind": kind, "operation": "CREATE", "namespace": "demo", "object": obj} | request
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


def probes(**handlers: Any) -> Json:
    return {"livenessProbe": handlers, "lifecycle": {"preStop": {"httpGet": {"port": 8080, "path": "/"}}}}


def affinity(*expressions: Json) -> Json:
    required = {"nodeSelectorTerms": [{"matchExpressions": list(expressions), "matchFields": None}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


SOURCE = {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}
OURS = {"name": "HOSTPORT_HOST_IP", "valueFrom": SOURCE}
SECRET = {"name": "HOSTPORT_HTTP", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
NAMED = {"name": "ME", "valueFrom": {"fieldRef": {"apiVersion": None, "fieldPath": "metadata.name"}}}
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs-1", "controller": True}

REVIEWS = [
    pytest.param(review(pod()), id="a Pod"),
    pytest.param(review(pod(annotations={})), id="one that does not ask"),
    pytest.param(review(pod(annotations={"hostport.io/enabled": None})), id="null for true"),
    pytest.param(review(pod(annotations={"hostport.io/enabled": "yes", "a": None})), id="yes for true"),
    pytest.param(review(pod(annotations={"hostport.io/enabled": "true", "kubernetes.io/config.mirror": "x"})), id="mirror"),
    pytest.param(review(pod(), operation="UPDATE"), id="an update"),
    pytest.param(review(pod(), dryRun=True, subResource=None), id="a dry run"),
    pytest.param(review(pod(ownerReferences=[OWNER], name=None, generateName="web-")), id="made by a controller"),
    pytest.param(review(pod(labels={"apps.kubernetes.io/pod-index": "7", "app": "x"})), id="an index"),
    pytest.param(review(pod(managedFields=[{"operation": "Apply", "fieldsV1": {"f:spec": {}}}])), id="applied"),
    pytest.param(review(pod(spec={"tolerations": [{"key": "a", "operator": "Exists"}], "nodeSelector": {"a": "b"}})), id="taints"),
    pytest.param(review(pod(spec=affinity({"key": "a", "operator": "In", "values": ["b"]}, {"key": "c"}))), id="affinity"),
    pytest.param(review(pod(spec={"priority": -5, "preemptionPolicy": "Never", "nodeName": "n1"})), id="priority"),
    pytest.param(review(pod(spec={"hostUsers": False, "hostnameOverride": "x", "os": {"name": "windows"}})), id="forbidden"),
    pytest.param(review(pod(spec={"securityContext": {"sysctls": [{"name": "net.a", "value": "1"}]}})), id="sysctls"),
    pytest.param(review(pod(spec={"hostNetwork": True, "dnsPolicy": "Default", "initContainers": None})), id="hostNetwork"),
    pytest.param(review(pod(spec={"initContainers": [{"name": "i", "restartPolicy": "Always", "ports": []}]})), id="init"),
    pytest.param(review(pod(container={"env": [{"name": "A", "value": "b"}, OURS, SECRET, NAMED]})), id="variables"),
    pytest.param(review(pod(container={"env": [SECRET | {"valueFrom": {}}, OURS | {"valueFrom": None}]})), id="no sources"),
    pytest.param(review(pod(container=probes(httpGet={"port": 8080}))), id="a probe by number"),
    pytest.param(review(pod(container=probes(grpc={"port": 1}, tcpSocket={"port": 8080, "host": "x"}))), id="another's"),
    pytest.param(review(pod(container=probes(httpGet={"port": "http"}))), id="a probe by name"),
    pytest.param(review(pod(container={"ports": [{"containerPort": 70000, "hostPort": 0, "protocol": "X"}]})), id="wrong"),
    pytest.param(review(pod(container={"ports": [{"containerPort": "80"}]})), id="a port as text"),
    pytest.param(review(pod(container={"ports": None, "env": None})), id="no ports"),
    pytest.param(review(None), id="no object"),
    pytest.param(review(pod(), uid=""), id="no uid"),
    pytest.param(review(pod()) | {"kind": "Pod"}, id="another kind"),
    pytest.param(review(pod()) | {"request": None}, id="no request"),
]  # fmt: skip


def said(body: Json) -> object:
    """What is made of a body; without the Pod's spec, of which a large body has less."""
    try:
        found = parse_review(json.dumps(body).encode())
    except ReviewError as error:
        return str(error)
    if isinstance(found, NotOurs) or found.pod is None:
        return found
    pod = msgspec.structs.replace(
        found.pod, spec={}, labels={}, containers=tuple(map(own_variables, found.pod.containers))
    )
    return msgspec.structs.replace(found, pod=pod)


def own_variables(container: Any) -> Any:
    """The sources of other people's variables are passed over, save where they are fields of the Pod."""
    if container.env is None:
        return container
    ours = [entry for entry in container.env if (entry.get("name") or "").startswith("HOSTPORT_") or field_of(entry)]
    kept = [{name: value for name, value in entry.items() if value is not None} for entry in ours]
    sources = [bool(entry.get("valueFrom")) and source_of(entry["valueFrom"]) for entry in ours]
    return msgspec.structs.replace(
        container, env=tuple(each | {"valueFrom": s} for each, s in zip(kept, sources, strict=True))
    )


def field_of(entry: Json) -> object:
    return ((entry.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")


def source_of(value_from: Json) -> object:
    field = value_from.get("fieldRef")
    return "another" if field is None else {name: value for name, value in field.items() if value is not None}


@pytest.mark.parametrize("body", REVIEWS)
def test_a_large_review_is_answered_as_a_small_one(body: Json) -> None:
    assert said(body | PADDING) == said(body)


def test_a_field_of_a_wrong_type_is_told_with_its_place() -> None:
    with pytest.raises(ReviewError) as caught:
        parse_review(json.dumps(review(pod(spec={"tolerations": {}})) | PADDING).encode())

    assert str(caught.value) == (
        "the AdmissionReview is malformed: Expected `array | null`, got `object` - at `$.request.object.spec.tolerations`"
    )


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        pytest.param(
            review(pod(spec={"volumes": [{}] * 40_000})), "",
            f"40,110 opening braces in the review are more than 32,768. {Bound.OBJECTS.remedy}", id="braces",
        ),
        pytest.param(
            review(pod(annotations={"hostport.io/enabled": "true"} | {f"{at}": "" for at in range(5000)})),
            "metadata.annotations", f"5,001 annotations are more than 4,096. {Bound.ANNOTATIONS.remedy}",
            id="annotations",
        ),
        pytest.param(
            review(pod(spec={"nodeSelector": {f"{at}": "" for at in range(5000)}})),
            "spec.nodeSelector", f"5,000 entries of a node selector are more than 256. {Bound.SELECTOR.remedy}",
            id="node selector",
        ),
    ],
)  # fmt: skip
def test_what_is_too_much_is_counted_before_objects_are_made_of_it(body: Json, field: str, message: str) -> None:
    data = json.dumps(body | PADDING)
    with pytest.raises(TooComplexError) as caught:
        skim(data)
    assert [(each.field, each.message) for each in caught.value.mistakes] == [(field, message)]

    denied = parse_review(data.encode())

    assert isinstance(denied, Denied)
    assert [(each.reason, each.field) for each in denied.mistakes] == [(Reason.TOO_COMPLEX.name, field)]
    assert (denied.about.request_id, denied.about.namespace, denied.about.name) == ("u-1", "demo", "web-0")


def terms(*each: Json) -> Json:
    required = {"nodeSelectorTerms": list(each)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def smallest(**spec: Any) -> Json:
    """A review with hardly a comma but those of the field."""
    metadata = spec.pop("metadata", {})
    raw = {"metadata": {"annotations": {"hostport.io/enabled": "true"}, **metadata}, "spec": spec}
    kind = {"version": "v1", "kind": "Pod"}
    request = {"uid": "u-1", "kind": kind, "operation": "CREATE", "object": raw}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(smallest(metadata={"ownerReferences": [{}] * 257}), "metadata.ownerReferences", id="owners"),
        pytest.param(smallest(metadata={"managedFields": [{}] * 257}), "metadata.managedFields", id="managers"),
        pytest.param(smallest(tolerations=[{}] * 257), "spec.tolerations", id="tolerations"),
        pytest.param(smallest(nodeSelector=dict.fromkeys(map(str, range(257)), "")), "spec.nodeSelector", id="selector"),
        pytest.param(smallest(**terms(*[{}] * 257)), AFFINITY, id="terms"),
        pytest.param(
            smallest(**terms(*[{"matchExpressions": [{}] * 4}] * 255, {"matchFields": [{}] * 5})),
            AFFINITY, id="expressions",
        ),
        pytest.param(smallest(containers=[{}] * 257, initContainers=[{}] * 256), "spec.containers", id="containers"),
        pytest.param(
            smallest(containers=[{"ports": [{}]}] * 256, initContainers=[{"ports": [{}]}] * 255 + [{"ports": [{}, {}]}]),
            "", id="ports, nearly every one in a container of its own",
        ),
    ],
)  # fmt: skip
def test_the_shortest_review_that_has_too_much_of_something_is_refused(body: Json, field: str) -> None:
    denied = parse_review(json.dumps(body, separators=(",", ":")).encode())

    assert isinstance(denied, Denied)
    assert [each.field for each in denied.mistakes] == [field]


# -- reviews that nobody's API server sends

JUNK: list[Any] = [None, True, -1, 1.5, 2**63, 10**30, "", "x" * 300, "\x01", [], {}, [None], [{}], ["a"], {"a": None}]


def places(value: Any, *above: Any) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a body."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*above, key)
        yield from places(value[key], *above, key)


def damaged(chance: random.Random) -> Json:
    """A body of the table, of which something is gone or has become something else."""
    body: Json = deepcopy(chance.choice(REVIEWS).values[0])  # type: ignore[arg-type]
    for _ in range(chance.randint(1, 3)):
        *above, key = chance.choice(list(places(body)))
        parent: Any = body
        for each in above:
            parent = parent[each]
        if chance.random() < 0.2:
            del parent[key]
        else:
            parent[key] = deepcopy(chance.choice(JUNK))
    return body


async def granted(request: AllocateRequest) -> AllocateResponse:
    response = AllocateResponse()
    for port in request.ports:
        got = response.allocation.ports.add(container=port.container, name=port.name, protocol=port.protocol)
        got.host_port = 7000
    return response


@pytest.mark.parametrize("seed", range(4))
async def test_a_damaged_review_is_answered_or_refused_and_large_ones_alike(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(250):
        body = damaged(chance)
        small, large = said(body), said(body | PADDING)
        with suppress(ReviewError):
            await admit(json.dumps(body).encode(), granted, probe=granted)

        assert small == large or isinstance(large, str), body
