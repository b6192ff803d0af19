"""Numbers that programs of a node have, by platform: the presets of `--reserved-ports`, and a table of docs.

The facts are those of the projects' own documents: "Ports and Protocols" of Kubernetes and the defaults of its
components, the firewall rules of Cilium's system requirements, OpenShift's host port registry, the networking
requirements of K3s, and GKE's page of reserved hostPorts.

The node port range (30000-32767) is in none of them: the node ports that Services have are known one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ReservedRange(NamedTuple):
    """Consecutive numbers that one program has. `protocol`: what it is seen under; the numbers are kept under all."""

    first: int
    last: int
    owner: str
    protocol: str = "TCP"


def _tcp(number: int, owner: str) -> ReservedRange:
    return ReservedRange(number, number, owner)


def _udp(number: int, owner: str) -> ReservedRange:
    return ReservedRange(number, number, owner, "UDP")


NODE = (
    _tcp(22, "sshd"),
    _tcp(7472, "MetalLB's speaker"),
    _tcp(7946, "MetalLB's speaker"),
    _tcp(9100, "node-exporter"),
)
"""What most clusters run on the host network besides. No preset: the default names these numbers."""

KUBERNETES = (
    ReservedRange(2379, 2381, "etcd"),
    _tcp(6443, "kube-apiserver"),
    _tcp(10248, "kubelet"),
    _tcp(10249, "kube-proxy"),
    _tcp(10250, "kubelet"),
    _tcp(10251, "kube-scheduler"),
    _tcp(10252, "kube-controller-manager"),
    _tcp(10253, "cloud-controller-manager"),
    _tcp(10254, "ingress-nginx"),
    _tcp(10255, "kubelet"),
    _tcp(10256, "kube-proxy"),
    _tcp(10257, "kube-controller-manager"),
    _tcp(10258, "cloud-controller-manager"),
    _tcp(10259, "kube-scheduler"),
)

CILIUM = (
    _tcp(4240, "cilium-health"),
    _tcp(4244, "cilium-agent (Hubble)"),
    _tcp(4245, "Hubble Relay"),
    _tcp(4250, "cilium-agent (mutual authentication)"),
    _tcp(4251, "SPIRE agent"),
    _tcp(6060, "cilium-agent"),
    _tcp(6061, "cilium-operator"),
    _tcp(6062, "Hubble Relay"),
    _udp(6081, "Geneve of Cilium"),
    _udp(8472, "VXLAN of Cilium"),
    _tcp(9878, "cilium-envoy"),
    _tcp(9879, "cilium-agent"),
    _tcp(9890, "cilium-agent"),
    _tcp(9891, "cilium-operator"),
    _tcp(9893, "Hubble Relay"),
    _tcp(9901, "cilium-envoy"),
    _tcp(9962, "cilium-agent"),
    _tcp(9963, "cilium-operator"),
    _tcp(9964, "cilium-envoy"),
    _udp(51871, "WireGuard of Cilium"),
)

OPENSHIFT = (
    _udp(500, "IPsec of ovn-kubernetes"),
    _tcp(1936, "openshift-router"),
    _tcp(4180, "machine-config-daemon"),
    _udp(4500, "IPsec of ovn-kubernetes"),
    _udp(4789, "VXLAN of ovn-kubernetes"),
    _tcp(5050, "ironic-inspector"),
    _tcp(6080, "cluster-kube-apiserver-operator"),
    _udp(6081, "Geneve of ovn-kubernetes"),
    ReservedRange(6180, 6181, "httpd of baremetal provisioning"),
    _tcp(6183, "httpd of baremetal provisioning"),
    _tcp(6385, "ironic-api"),
    _tcp(8089, "ironic-conductor"),
    ReservedRange(8200, 8219, "CSI drivers"),
    _tcp(8797, "machine-config-daemon"),
    ReservedRange(9000, 9999, "OpenShift's host services"),
    _tcp(10010, "crio"),
    _tcp(10263, "cloud-node-manager"),
    ReservedRange(10300, 10303, "CSI drivers"),
    _tcp(10357, "cluster-policy-controller"),
    ReservedRange(10443, 10444, "openshift-router"),
    _tcp(11443, "kube-scheduler"),
    _tcp(17697, "kube-apiserver"),
    ReservedRange(22623, 22624, "machine-config-server"),
    ReservedRange(29101, 29103, "ovn-kubernetes"),
    _tcp(60000, "baremetal-operator"),
)

K3S = (
    ReservedRange(2379, 2382, "etcd of K3s"),
    _tcp(5001, "K3s' embedded registry"),
    ReservedRange(6443, 6444, "K3s"),
    _udp(8472, "VXLAN of flannel"),
    _tcp(10010, "containerd of K3s"),
    ReservedRange(51820, 51821, "WireGuard of flannel", "UDP"),
)

GKE = (
    ReservedRange(665, 986, "NFS mounts of GKE"),
    ReservedRange(987, 988, "gke-metadata-server"),
    ReservedRange(2020, 2022, "fluentbit"),
    _tcp(4194, "kubelet"),
    _tcp(4244, "GKE Dataplane V2"),
    _tcp(6942, "GKE Dataplane V2"),
    _tcp(8799, "stackdriver-metadata-agent"),
    _tcp(9890, "GKE Dataplane V2"),
    _tcp(9965, "GKE Dataplane V2"),
    _tcp(9990, "GKE Dataplane V2"),
    _tcp(20256, "node-problem-detector"),
)

PRESETS: Mapping[str, tuple[ReservedRange, ...]] = {
    "kubernetes": KUBERNETES,
    "cilium": CILIUM,
    "openshift": OPENSHIFT,
    "k3s": K3S,
    "gke": GKE,
}
"""By the word that `--reserved-ports` takes. Each has what its platform adds: `kubernetes` is named beside it."""

DEFAULT_RESERVED = "22,2379-2381,6443,7472,7946,9100,10248-10259"
"""The control plane and the kubelet, etcd, ssh, and what most clusters run on the host network."""
