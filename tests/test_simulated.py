"""The simulated cluster of `make bench` says what a real one would, in messages that we read."""

from __future__ import annotations

from allocator.cluster import kubernetes_pb2 as pb
from testing import templates


def test_a_simulated_node_is_read() -> None:
    (node,) = pb.NodeList.FromString(templates.Nodes().item(7, 12)).items

    assert (node.metadata.name, node.metadata.resourceVersion) == ("node-00007", "0000012")
    assert [each.type for each in node.status.addresses] == ["InternalIP"]
    assert abs(node.ByteSize() - templates.NODE_BYTES) < 20


def test_a_simulated_pod_is_read_with_its_port_and_without() -> None:
    pods = templates.Pods()
    for port in (20_000, 0):
        (pod,) = pb.PodList.FromString(pods.item(7, 12, node=3, port=port)).items

        assert (pod.metadata.name, pod.spec.nodeName) == ("web-000007", "node-00003")
        assert [each.hostPort for each in pod.spec.containers[0].ports] == [port]
