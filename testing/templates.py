"""Pods and Nodes in protobuf as an API server writes them, made from templates: fixed text between numbers that change.

All numbers have a fixed width, so that the lengths which protobuf writes before each part are those of the template.
What our messages do not know is there as well, in the fields and about the sizes of upstream's: the decoder has to pass
over it.
"""

from __future__ import annotations

from typing import Any

from allocator.cluster import kubernetes_pb2 as pb
from testing.encoding import envelope, sized

POD_BYTES = 1_570  # of 4,600 in JSON, as of the Pods of a real server (1,290 of 3,780)
NODE_BYTES = 6_500
WIDE = 99_999  # takes as many bytes in protobuf as any port from 16,384 on
MARKS = {b"NUMBER": b"%(number)06d", b"TEN": b"%(team)03d", b"PLACE": b"%(node)05d", b"VERSION": b"%(version)07d"}


class Pods:
    """Pods with a host port and without; `in` a list or as a change."""

    def __init__(self) -> None:
        self._items = {has_port: _format(_item(_pod(has_port=has_port))) for has_port in (False, True)}
        self._changes = {has_port: _format(_change(_pod(has_port=has_port))) for has_port in (False, True)}

    def item(self, number: int, version: int, *, node: int, port: int) -> bytes:
        """One of a list; port 0: none."""
        return _filled(self._items[port > 0], number, version, node, port)

    def change(self, number: int, version: int, *, node: int, port: int) -> bytes:
        """A frame of a watch, its length included."""
        return _filled(self._changes[port > 0], number, version, node, port)


class Nodes:
    """Nodes with a long status."""

    def __init__(self) -> None:
        node = pb.Node(metadata=pb.ObjectMeta(name="node-PLACE", uid="n-PLACE", resourceVersion="VERSION"))
        node.metadata.labels.update({"kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "a"})
        node.spec.SetInParent()
        node.status.addresses.add(type="InternalIP", address="10.0.0.1")
        _add_unknown(node.status, {8: NODE_BYTES - node.ByteSize() - 10})  # images
        self._item = _format(_item(node))

    def item(self, number: int, version: int) -> bytes:
        return _filled(self._item, 0, version, number, 0)


def page(kind: str, version: int, token: str, items: list[bytes]) -> bytes:
    """A list of what `item` gives."""
    metadata = pb.ListMeta(resourceVersion=str(version))
    if token:
        setattr(metadata, "continue", token)
    head = getattr(pb, f"{kind}List")(metadata=metadata).SerializeToString()
    return envelope(f"{kind}List", b"".join([head, *items]))


def bookmark(version: int) -> bytes:
    """A frame of a watch of Pods."""
    return _frame("BOOKMARK", pb.Pod(metadata=pb.ObjectMeta(resourceVersion=str(version))))


def _pod(*, has_port: bool) -> pb.Pod:
    pod = pb.Pod()
    pod.metadata.name, pod.metadata.generateName, pod.metadata.namespace = "web-NUMBER", "web-", "team-TEN"
    pod.metadata.uid, pod.metadata.resourceVersion = "00000000-0000-4000-8000-000000NUMBER", "VERSION"
    pod.metadata.labels.update({"app": "web", "pod-template-hash": "5d4f8c7b9"})
    pod.metadata.ownerReferences.add(uid="rs", controller=True)
    _add_unknown(pod.metadata, {8: 8, 17: 150})
    pod.spec.nodeName = "node-PLACE"
    for key in ("not-ready", "unreachable"):
        pod.spec.tolerations.add(key=f"node.kubernetes.io/{key}", operator="Exists", effect="NoExecute")
    container = pod.spec.containers.add(name="c")
    container.ports.add(name="web", hostPort=WIDE if has_port else 0, containerPort=8080, protocol="TCP")
    _add_unknown(container, {2: 14, 7: 40, 8: 60, 9: 60, 13: 20, 14: 12, 15: 30, 20: 4})
    _add_unknown(pod.spec, {1: 110, 3: 6, 6: 12, 8: 7, 9: 7, 14: 2, 19: 17})
    pod.status.phase = "Running"
    for kind in ("Ready", "Initialized", "ContainersReady", "PodScheduled", "PodReadyToStartContainers"):
        _add_unknown(pod.status.conditions.add(type=kind, status="True"), {3: 0, 4: 8, 5: 0})
    _add_unknown(pod.status, {5: 9, 6: 9, 7: 8, 8: 230, 9: 10, 12: 11, 16: 11})
    _add_unknown(pod.metadata, {17: POD_BYTES - pod.ByteSize() - 10})
    return pod


def _add_unknown(message: Any, sizes: dict[int, int]) -> None:
    for number, size in sizes.items():
        message.MergeFromString(_unknown(number, size))


def _unknown(number: int, size: int) -> bytes:
    """A field with a length that nobody knows."""
    return _varint(number << 3 | 2) + _varint(size) + b"x" * size


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + _varint(rest)


def _item(message: Any) -> bytes:
    body = message.SerializeToString()
    return _varint(2 << 3 | 2) + _varint(len(body)) + bytes(body)


def _change(pod: pb.Pod) -> bytes:
    return _frame("MODIFIED", pod)


def _frame(kind: str, pod: pb.Pod) -> bytes:
    body = envelope("Pod", pod.SerializeToString())
    return sized(pb.WatchEvent(type=kind, object=pb.RawExtension(raw=body)).SerializeToString())


def _format(template: bytes) -> bytes:
    """Each mark has the width of what takes its place."""
    template = template.replace(b"%", b"%%").replace(_varint(WIDE), b"%(port)s")
    for mark, place in MARKS.items():
        template = template.replace(mark, place)
    return template


def _filled(template: bytes, number: int, version: int, node: int, port: int) -> bytes:
    values = {"number": number, "team": number % 200, "node": node, "version": version, "port": _varint(port)}
    return template % {name.encode(): value for name, value in values.items()}
