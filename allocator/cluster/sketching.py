"""Nodes, Namespaces and Services in protobuf → the sketches that `decoding` makes of JSON. Pure."""

from __future__ import annotations

from allocator.cluster import kubernetes_pb2 as pb
from allocator.cluster.messages import plain_of, text_of, texts_of
from allocator.cluster.objects import ENFORCE
from allocator.cluster.projection import (
    Labels,
    Metadata,
    NamespaceMetadata,
    NamespaceSketch,
    NodeMetadata,
    NodeSketch,
    NodeSpec,
    NodeStatus,
    ServicePort,
    ServiceSketch,
    ServiceSpec,
)
from hostport.contract.annotations import EXTERNAL_ADDRESS


def see_node(node: pb.Node) -> NodeSketch:
    """The Node, as JSON would have told it."""
    metadata, spec = node.metadata, node.spec
    return NodeSketch(
        metadata=NodeMetadata(
            name=text_of(metadata.name),
            uid=text_of(metadata.uid),
            resource_version=text_of(metadata.resourceVersion),
            labels=texts_of(metadata.labels),
        ),
        spec=NodeSpec(taints=[plain_of(taint) for taint in spec.taints], unschedulable=spec.unschedulable),
        status=NodeStatus(addresses=[{"type": one.type, "address": one.address} for one in node.status.addresses]),
    )


def see_namespace(namespace: pb.Namespace) -> NamespaceSketch:
    """The Namespace, likewise."""
    metadata = namespace.metadata
    return NamespaceSketch(
        metadata=NamespaceMetadata(
            name=text_of(metadata.name),
            resource_version=text_of(metadata.resourceVersion),
            labels=Labels(
                enforce=text_of(metadata.labels.get(ENFORCE) or ""),
                external_address=text_of(metadata.labels.get(EXTERNAL_ADDRESS) or ""),
            ),
        )
    )


def see_service(service: pb.Service) -> ServiceSketch:
    """The Service, likewise."""
    metadata, spec = service.metadata, service.spec
    return ServiceSketch(
        metadata=Metadata(
            name=text_of(metadata.name),
            namespace=text_of(metadata.namespace),
            uid=text_of(metadata.uid),
            resource_version=text_of(metadata.resourceVersion),
        ),
        spec=ServiceSpec(
            type=text_of(spec.type),
            selector=texts_of(spec.selector),
            ports=[_service_port(port) for port in spec.ports],
            health_check_node_port=spec.healthCheckNodePort,
        ),
    )


def _service_port(port: pb.ServicePort) -> ServicePort:
    target = port.targetPort
    return ServicePort(
        port=port.port,
        target_port=text_of(target.strVal) if target.type else target.intVal,
        protocol=text_of(port.protocol),
        node_port=port.nodePort,
    )
