"""Protobuf of the API server: the same as its JSON, by the server's numbers, and what is wrong with it is said."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocator.cluster import client
from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.client import ApiError, StreamedResponse, UnreachableError, complete_parts
from allocator.cluster.decoding import ListMetadata
from allocator.cluster.kubernetes import NAMESPACES, NODES, PODS, SERVICES
from allocator.cluster.messages import MAGIC, ProtobufFrame, head_of_page, words_of_status
from allocator.cluster.objects import addressed_namespace, parse_node
from allocator.cluster.sinks import ValueInterner, level_of
from cluster.conftest import Follow
from cluster.test_projection import NODES as NODE_OBJECTS
from cluster.test_projection import ODD_PODS, outcome
from cluster.test_projection import PODS as POD_OBJECTS
from hostport.services import parse_service
from testing.apiserver import ApiServer, Fail
from testing.encoding import binary, binary_page, envelope, frame, sized
from testing.observing import Recorder, namespace, node, parse_pod, pod
from testing.recording import assert_same, recorded

RECORDED = recorded()


# -- what a real API server sent


def test_our_numbers_are_the_servers() -> None:
    assert_same(RECORDED)


def body_of(key: str) -> bytes:
    return base64.b64decode(RECORDED[key]["protobuf"])


def text_of(key: str) -> bytes:
    return json.dumps(RECORDED[key]["json"]).encode()


@pytest.mark.parametrize("key", ["Pod", "Pod on a node"])
def test_a_recorded_pod_is_the_same_in_both_encodings(key: str) -> None:
    seen, expected = PODS.reader.one(body_of(key)), PODS.reader.one(text_of(key))

    assert ValueInterner().pod(seen) == ValueInterner().pod(expected) == parse_pod(RECORDED[key]["json"])
    assert (seen.identity, seen.version, seen.title, seen.weight, seen.holds_something()) == (
        *(expected.identity, expected.version, expected.title, expected.weight, expected.holds_something()),
    )


def test_a_recorded_node_is_the_same_in_both_encodings() -> None:
    nodes = [ValueInterner().node(NODES.reader.one(body)) for body in (body_of("Node"), text_of("Node"))]

    assert nodes == [parse_node(RECORDED["Node"]["json"])] * 2


def test_a_recorded_namespace_is_the_same_in_both_encodings() -> None:
    seen, expected = (NAMESPACES.reader.one(body) for body in (body_of("Namespace"), text_of("Namespace")))

    assert (seen.identity, seen.version, level_of(seen)) == (expected.identity, expected.version, level_of(expected))


def test_a_recorded_service_is_the_same_in_both_encodings() -> None:
    seen, expected = (
        parse_service(msgspec.to_builtins(SERVICES.reader.one(body)))
        for body in (body_of("Service"), text_of("Service"))
    )

    assert seen == expected == parse_service(RECORDED["Service"]["json"])
    assert seen is not None


LISTS = {"PodList": PODS, "NodeList": NODES, "NamespaceList": NAMESPACES, "ServiceList": SERVICES}


@pytest.mark.parametrize(("key", "collection"), LISTS.items(), ids=LISTS)
def test_the_first_bytes_of_a_recorded_page_tell_of_the_next(key: str, collection: Any) -> None:
    body = body_of(key)
    page, metadata = collection.reader.page(body), RECORDED[key]["json"]["metadata"]
    heads = [head_of_page(body[:size]) for size in range(len(body) + 1)]
    first = heads.index(page.metadata)

    assert page.metadata == ListMetadata(
        metadata["resourceVersion"], metadata["continue"], metadata["remainingItemCount"]
    )
    assert heads == [None] * first + [page.metadata] * (len(heads) - first)
    assert len(page.items) == 1


BAD_HEADS = {
    "no magic": b"\x0a\x00\x12\x00",
    "the magic alone": MAGIC,
    "another field first": MAGIC + b"\x12\x00",
    "no list": MAGIC + b"\x0a\x00\x1a\x00",
    "a length without an end": MAGIC + b"\x0a" + b"\xff" * 100_000,
    "metadata that is none": MAGIC + b"\x0a\x00\x12\x04\x0a\x02\xff\xff",
}


@pytest.mark.parametrize("begin", BAD_HEADS.values(), ids=BAD_HEADS)
def test_first_bytes_that_tell_nothing_are_none(begin: bytes) -> None:
    assert head_of_page(begin) is None


def test_the_words_of_a_recorded_error_are_read() -> None:
    status = RECORDED["Status"]["json"]

    assert words_of_status(body_of("Status")) == (status["message"], status["reason"])


# -- whatever the object


def in_both(reader: Any, kind: str, obj: dict[str, Any]) -> tuple[Any, Any]:
    """What is read of it in JSON and in protobuf."""
    line = json.dumps({"type": "ADDED", "object": obj}).encode()
    return reader.event(line).object, reader.event(frame(kind, line)).object


def assert_alike(obj: dict[str, Any]) -> None:
    """A Pod of the API is in either encoding what it is from a file, malformed or not."""
    text, message = in_both(PODS.reader, "Pod", obj)
    expected = outcome(parse_pod, obj)

    assert [outcome(ValueInterner().pod, seen) for seen in (text, message)] == [expected, expected]
    assert (message.identity, message.version, message.weight) == (text.identity, text.version, text.weight)
    assert message.holds_something() or not text.holds_something()


@given(POD_OBJECTS)
def test_pods_are_read_as_in_json(obj: dict[str, Any]) -> None:
    assert_alike(obj)


@settings(max_examples=400)
@given(ODD_PODS)
def test_odd_pods_are_read_as_in_json(obj: dict[str, Any]) -> None:
    assert_alike(obj)


@given(NODE_OBJECTS)
def test_nodes_are_read_as_in_json(obj: dict[str, Any]) -> None:
    text, message = in_both(NODES.reader, "Node", obj)

    assert outcome(ValueInterner().node, message) == outcome(ValueInterner().node, text)


ADDRESSES = [{"type": "InternalIP", "address": "10.0.0.7"}, {"type": "ExternalIP", "address": "198.51.100.7"}]
OUTSIDE = {"hostport.io/external-address": "203.0.113.9"}


@pytest.mark.parametrize(
    ("labels", "status", "expected"),
    [({}, {"addresses": ADDRESSES}, "198.51.100.7"), (OUTSIDE, {"addresses": ADDRESSES}, "203.0.113.9"), ({}, {}, "")],
    ids=["what the Node names", "its label", "none"],
)
def test_the_address_of_a_node_is_read_as_in_json(
    labels: dict[str, str], status: dict[str, Any], expected: str
) -> None:
    obj = {"metadata": {"name": "n1", "labels": labels}, "status": status}
    found = [ValueInterner().node(each).address.address for each in in_both(NODES.reader, "Node", obj)]

    assert [*found, parse_node(obj).address.address] == [expected] * 3


@pytest.mark.parametrize(
    ("value", "expected"), [("true", "games"), ("false", ""), ("", "")], ids=["yes", "no", "unset"]
)
def test_whether_pods_are_told_an_address_is_read_as_in_json(value: str, expected: str) -> None:
    obj = {"metadata": {"name": "games", "labels": {"hostport.io/external-address": value} if value else {}}}
    both = in_both(NAMESPACES.reader, "Namespace", obj)

    assert [addressed_namespace(each) for each in (obj, *map(msgspec.to_builtins, both))] == [expected] * 3


SERVICE_PORTS = {
    "a number": {"port": 80, "targetPort": 8080, "protocol": "TCP"},
    "a name": {"port": 80, "targetPort": "web", "protocol": "UDP"},
    "its own number": {"port": 80},
}


@pytest.mark.parametrize("kind", ["ClusterIP", "ExternalName"])
@pytest.mark.parametrize("port", SERVICE_PORTS.values(), ids=SERVICE_PORTS)
def test_services_are_read_as_in_json(port: dict[str, Any], kind: str) -> None:
    spec = {"type": kind, "selector": {"app": "db"}, "ports": [port, {"port": 1, "targetPort": 2}]}
    obj = {"kind": "Service", "metadata": {"name": "s", "namespace": "demo", "resourceVersion": "7"}, "spec": spec}
    text, message = in_both(SERVICES.reader, "Service", obj)

    assert (message.identity, message.version) == (text.identity, text.version)
    assert parse_service(msgspec.to_builtins(message)) == parse_service(msgspec.to_builtins(text)) == parse_service(obj)


WANTED = {
    "ours": (True, "abc", True),
    "not on the host's network": (False, "abc", False),
    "without an id": (True, "", False),
}


@pytest.mark.parametrize(("is_host", "carried", "is_wanted"), WANTED.values(), ids=WANTED)
def test_what_a_service_is_compared_with_is_read_as_in_json(is_host: bool, carried: str, is_wanted: bool) -> None:
    metadata = {
        "name": "a",
        "namespace": "demo",
        "uid": "u",
        "labels": {"app": "db"},
        "annotations": {"hostport.io/allocation-id": carried, "hostport.io/allocations": "[1]"},
        "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "o", "controller": True}
        ],
    }
    text, message = in_both(PODS.reader, "Pod", {"metadata": metadata, "spec": {"hostNetwork": is_host}})
    found = {name: metadata[name] for name in ("namespace", "name", "labels", "ownerReferences")}

    assert text.wanted() == message.wanted() == ((found, "[1]") if is_wanted else None)


@pytest.mark.parametrize("level", ["", "baseline", "restricted", "privileged", "x"])
def test_namespaces_are_read_as_in_json(level: str) -> None:
    text, message = in_both(NAMESPACES.reader, "Namespace", namespace("a", level))

    assert (message.identity, level_of(message)) == (text.identity, level_of(text))


def test_text_that_is_no_utf_8_is_read_with_a_sign_in_its_place_and_spoils_nothing_else() -> None:
    odd = pb.Pod.FromString(
        pb.Pod(
            metadata=pb.ObjectMeta(
                name="odd", namespace="demo", uid="u1", annotations={"hostport.io/allocation-id": "WRONG"}
            ),
            spec=pb.PodSpec(nodeSelector={"WRONG": "a", "zone": "WRONG"}, tolerations=[pb.Toleration(key="WRONG")]),
            status=pb.PodStatus(conditions=[pb.PodCondition(type="WRONG", message="WRONG")]),
        )
        .SerializeToString()
        .replace(b"WRONG", b"a\xffbcd")
    )
    whole = pb.PodList(metadata=pb.ListMeta(resourceVersion="7"), items=[odd])
    whole.items.append(pb.Pod(metadata=pb.ObjectMeta(name="good", namespace="demo", uid="u2")))
    page = PODS.reader.page(envelope("PodList", whole.SerializeToString()))
    read = [ValueInterner().pod(item) for item in page.items or ()]

    assert [(each.name, each.carried_id) for each in read] == [("odd", "a\ufffdbcd"), ("good", "")]
    assert read[0].constraints.selector == (("zone", "a\ufffdbcd"),)
    assert [each.key for each in read[0].constraints.tolerations] == ["a\ufffdbcd"]


# -- what is wrong

POD = binary("Pod", pod("p", "web:80=8000"))
BROKEN = envelope("Pod", b"\x0a\xff\xff")
BAD_PAGES = {
    "no bytes": (b"", r"."),
    "the magic alone": (MAGIC, "it is a '', no PodList"),
    "an envelope cut off": (MAGIC + POD[4:20], "a Unknown is no valid protobuf"),
    "a list cut off": (envelope("PodList", b"\x12\x7f"), "a PodList is no valid protobuf"),
    "a Pod": (POD, "it is a 'Pod', no PodList"),
    "an error": (envelope("Status", b""), "it is a 'Status', no PodList"),
    "nodes": (envelope("NodeList", b""), "it is a 'NodeList', no PodList"),
}
BAD_EVENTS = {
    "no bytes": (b"", "an event has no type"),
    "no event": (b"\x0a\x7f", "a WatchEvent is no valid protobuf"),
    "no object": (pb.WatchEvent(type="ADDED").SerializeToString(), "a Pod has no envelope"),
    "a broken object": (
        pb.WatchEvent(type="ADDED", object=pb.RawExtension(raw=BROKEN)).SerializeToString(),
        "a Pod is no valid protobuf",
    ),
    "an object of another kind": (
        pb.WatchEvent(type="ADDED", object=pb.RawExtension(raw=envelope("Node", b""))).SerializeToString(),
        "it is a 'Node', no Pod",
    ),
    "an error without a Status": (
        pb.WatchEvent(type="ERROR", object=pb.RawExtension(raw=POD)).SerializeToString(),
        "it is a 'Pod', no Status",
    ),
}


@pytest.mark.parametrize(("body", "said"), BAD_PAGES.values(), ids=BAD_PAGES)
def test_what_is_no_list_is_a_value_error(body: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PODS.reader.page(body)


@pytest.mark.parametrize(("part", "said"), BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_what_is_no_event_is_a_value_error(part: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PODS.reader.event(ProtobufFrame(part))


@given(st.binary(max_size=40), st.integers(0, 200))
def test_bytes_of_chance_are_a_value_error_or_an_answer(junk: bytes, at: int) -> None:
    """Nothing else, whatever is changed where."""
    good = binary_page("Pod", {"resourceVersion": "7"}, [pod("p", "web:80=8000")])
    for body in (MAGIC + junk, good[:at] + junk + good[at + len(junk) :]):
        head_of_page(body)
        try:
            for seen in PODS.reader.page(body).items or ():
                outcome(ValueInterner().pod, seen)
        except ValueError:
            continue


# -- frames


async def parts_of(chunks: Iterable[bytes]) -> list[list[bytes]]:
    """The frames that come together."""

    async def come() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return [list(parts) async for parts in complete_parts(StreamedResponse(is_binary=True, chunks=come()))]


THREE = [b"one", b"", b"three" * 100]
WIRE = b"".join(map(sized, THREE))


async def test_frames_that_arrive_together_come_together() -> None:
    assert await parts_of([WIRE]) == [THREE]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 100])
async def test_frames_may_arrive_in_any_pieces(size: int) -> None:
    found = await parts_of(WIRE[start : start + size] for start in range(0, len(WIRE), size))

    assert [part for some in found for part in some] == THREE


@pytest.mark.parametrize("size", [1, 4, 6, len(WIRE) - 1])
async def test_a_stream_that_ends_within_a_frame_has_broken_off(size: int) -> None:
    with pytest.raises(UnreachableError, match="the watch ended within a frame"):
        await parts_of([WIRE[:size]])


async def test_a_frame_that_is_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_PART", 1000)
    assert await parts_of([sized(bytes(1000))]) == [[bytes(1000)]]

    with pytest.raises(UnreachableError, match="announces a frame of 1,001 bytes, more than 1,000"):
        await parts_of([(1001).to_bytes(4, "big")])


# -- which encoding


async def listed(server: ApiServer, follow: Follow) -> Recorder:
    observer = Recorder()
    server.put("nodes", node("n1"))
    server.put("pods", pod("p", "web:80=8000", at="n1"))
    await asyncio.wait_for(follow(observer).synced(), 5)
    return observer


async def test_kubernetes_own_kinds_are_asked_for_in_protobuf(server: ApiServer, follow: Follow) -> None:
    observer = await listed(server, follow)
    await observer.until(lambda: server.count("list namespaces") == server.count("list services") == 1)

    assert server.encodings == {("nodes", True), ("pods", True), ("namespaces", True), ("services", True)}


async def test_a_server_that_has_no_protobuf_is_followed_in_json(server: ApiServer, follow: Follow) -> None:
    server.speaks_protobuf = False
    observer = await listed(server, follow)
    server.put("pods", pod("later", "web:80=8001", at="n1"))
    await observer.has_pods("later", "p")

    assert ("pods", True) not in server.encodings


async def test_each_answer_may_have_an_encoding_of_its_own(server: ApiServer, follow: Follow) -> None:
    """As behind a balancer, with servers that differ."""
    server.speaks_protobuf = False
    observer = await listed(server, follow)
    server.speaks_protobuf = True
    server.script("watch pods", Fail(500))
    server.forget()
    server.put("pods", pod("later", "web:80=8001", at="n1"))
    await observer.has_pods("later", "p")


async def test_an_error_in_protobuf_is_told_in_its_own_words(server: ApiServer) -> None:
    server.script("get pods", Fail(403, "no such verb", retry_after=3))
    client = server.client()
    with pytest.raises(ApiError) as caught:
        await client.get("/api/v1/namespaces/demo/pods/p", accept=PODS.reader.accept)
    await client.close()

    error = caught.value
    assert (error.status, error.reason, error.message, error.retry_after) == (403, "R", "no such verb", 3.0)
