"""Each knob of the chart: what it changes in the objects, and that a real API server takes them (a dry run)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import render
from e2e.control_plane import ControlPlane, create_namespace

from helm.helm import NAMESPACE, Helm, Values

WEBHOOK = "MutatingWebhookConfiguration hostport-operator"
EVERY_PORT = "ValidatingAdmissionPolicy hostport-every-port-given"
ENTRIES = (0, 1)
NOT_OF_A_BARE_CLUSTER = {"PodMonitor", "PrometheusRule", "Certificate", "Issuer"}
"""Their definitions come with other products."""

Objects = Mapping[str, Any]
Expected = dict[str, Any]
"""Path of a value, as `Deployment hostport-shim/spec/replicas` → the value. None: it is not there."""


def pod(program: str, path: str) -> str:
    return f"Deployment hostport-{program}/spec/template/{path}"


SOMEWHERE = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["system"]}]}]}}}  # fmt: skip
SPREAD = [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]
ANYTHING = [{"ports": [{"port": 9000}]}]
DIGEST = "sha256:" + "ab" * 32

OF_A_PROGRAM: dict[str, tuple[Any, str, Any]] = {
    "podLabels": ({"team": "net"}, "metadata/labels/team", "net"),
    "podAnnotations": ({"a/b": "c"}, "metadata/annotations", {"a/b": "c"}),
    "nodeSelector": ({"pool": "system"}, "spec/nodeSelector", {"pool": "system"}),
    "affinity": (SOMEWHERE, "spec/affinity", SOMEWHERE),
    "tolerations": ([{"operator": "Exists"}], "spec/tolerations/2", {"operator": "Exists"}),
    "topologySpreadConstraints": (SPREAD, "spec/topologySpreadConstraints", SPREAD),
    "priorityClassName": ("system-node-critical", "spec/priorityClassName", "system-node-critical"),
    "extraEnv": ([{"name": "TZ", "value": "UTC"}], "spec/containers/0/env/-1", {"name": "TZ", "value": "UTC"}),
    "extraVolumes": ([{"name": "more", "emptyDir": {}}], "spec/volumes/-1", {"name": "more", "emptyDir": {}}),
    "extraArgs": (["--log-level=debug"], "spec/containers/0/args/-1", "--log-level=debug"),
    "resources": (
        {"limits": {"cpu": "2"}},
        "spec/containers/0/resources/limits",
        {"cpu": "2", "memory": {"allocator": "1Gi", "shim": "512Mi"}},
    ),
    "securityContext": ({"privileged": False}, "spec/containers/0/securityContext/privileged", False),
    "podSecurityContext": (
        {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
        "spec/securityContext",
        {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    ),
    "dnsConfig": ({"options": [{"name": "ndots", "value": "1"}]}, "spec/dnsConfig/options/0/name", "ndots"),
    "logLevel": ("warning", "spec/containers/0/args/?", "--log-level=warning"),
}
"""Knob → its value, and what it makes in the template of the Pods."""

FLAGS: dict[str, tuple[Any, str, str]] = {
    "coolDown": ("10m", "allocator", "--cool-down=10m"),
    "reuse": ("oldest", "allocator", "--reuse=oldest"),
    "whenFull": ("Pending", "allocator", "--when-full=Pending"),
    "reservedPorts": ("kubernetes,k3s,22,9100-9200", "allocator", "--reserved-ports=kubernetes,k3s,22,9100-9200"),
    "discloseHolders": ("all", "allocator", "--disclose-holders=all"),
    "allocator.reservationTtl": ("1m30s", "allocator", "--reservation-ttl=1m30s"),
    "allocator.namespaceReservations": (0, "allocator", "--namespace-reservations=0"),
    "allocator.namespaceReservedPorts": (1000000, "allocator", "--namespace-reserved-ports=1000000"),
    "allocator.namespaceLeases": (20000, "allocator", "--namespace-leases=20000"),
    "allocator.tokenAudience": ("ports", "allocator", "--token-audience=ports"),
    "allocator.page": ("off", "allocator", "--page=off"),
    "allocator.pageHosts": (["ports.corp", "p"], "allocator", "--page-hosts=ports.corp,p"),
    "certificates.names": (["ports.corp"], "allocator", "--certificate-names=ports.corp"),
    "certificates.lifetime": ("240h", "allocator", "--certificate-lifetime=240h"),
    "certificates.caLifetime": ("4800h", "allocator", "--ca-lifetime=4800h"),
    "certificates.propagation": ("5m", "allocator", "--certificate-propagation=5m"),
    "shim.tlsMinVersion": ("1.2", "shim", "--tls-min-version=1.2"),
    "shim.maxConcurrent": (50, "shim", "--max-concurrent=50"),
    "shim.steer": (False, "shim", "--steer=false"),
    "shim.defaultNetwork": ("Pod", "shim", "--default-network=Pod"),
    "shim.shutdownDelay": ("20s", "shim", "--shutdown-delay=20s"),
}
"""Value → one, the program, and its flag."""

OWN = {"certificates.mode": "existingSecret", "certificates.caBundle": "Q0E="}
AGENT, AGENTS = "DaemonSet hostport-agent/spec/template", {"agent.enabled": True}
OTHERS: dict[str, tuple[Values, Expected]] = {
    "no agents": ({"agent.enabled": False}, {"DaemonSet hostport-agent": None, "ServiceAccount hostport-agent": None}),
    "agents": (
        {
            **AGENTS,
            "image.agentDigest": DIGEST,
            "agent.interval": "20s",
            "agent.resources": {"limits": {"memory": "64Mi"}},
            "agent.extraArgs": ["--log-level=error"],
            "agent.nodeSelector": {"pool": "games"},
            "agent.tolerations": [{"key": "a", "operator": "Exists"}],
            "agent.affinity": SOMEWHERE,
            "agent.podLabels": {"team": "net"},
            "agent.podAnnotations": {"a/b": "c"},
            "agent.priorityClassName": "system-node-critical",
            "agent.extraEnv": [{"name": "TZ", "value": "UTC"}],
            "agent.dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
            "agent.logLevel": "debug",
            "agent.maxUnavailable": 2,
        },
        {
            f"{AGENT}/spec/containers/0/image": f"localhost/hostport-operator-agent@{DIGEST}",
            f"{AGENT}/spec/containers/0/args/?": "--interval=20s",
            f"{AGENT}/spec/containers/0/args/-2": "--log-level=debug",
            f"{AGENT}/spec/containers/0/args/-1": "--log-level=error",
            f"{AGENT}/spec/containers/0/resources/limits": {"memory": "64Mi"},
            f"{AGENT}/spec/containers/0/env/-1": {"name": "TZ", "value": "UTC"},
            f"{AGENT}/spec/nodeSelector": {"kubernetes.io/os": "linux", "pool": "games"},
            f"{AGENT}/spec/tolerations": [{"key": "a", "operator": "Exists"}],
            f"{AGENT}/spec/affinity": SOMEWHERE,
            f"{AGENT}/spec/priorityClassName": "system-node-critical",
            f"{AGENT}/spec/dnsConfig/options/0/name": "ndots",
            f"{AGENT}/metadata/labels/team": "net",
            f"{AGENT}/metadata/annotations": {"a/b": "c"},
            "DaemonSet hostport-agent/spec/updateStrategy/rollingUpdate/maxUnavailable": 2,
            pod("allocator", "spec/containers/0/args/?"): f"--agent-account={NAMESPACE}/hostport-agent",
        },
    ),
    "agents whose uid the platform gives": (
        {
            **AGENTS,
            "agent.podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            "agent.securityContext": {"privileged": False},
        },
        {
            f"{AGENT}/spec/securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            f"{AGENT}/spec/containers/0/securityContext/privileged": False,
            f"{AGENT}/spec/containers/0/securityContext/readOnlyRootFilesystem": True,
        },
    ),
    "agents that reserve": (
        {**AGENTS, "agent.reserve": True, "agent.podSecurityContext": {"runAsUser": None, "seccompProfile": None}},
        {
            f"{AGENT}/spec/securityContext": {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0, "fsGroup": 0},
            f"{AGENT}/spec/containers/0/args/?": "--reserve",
            f"{AGENT}/spec/volumes/-2/hostPath/path": "/proc/sys/net/ipv4/ip_local_reserved_ports",
        },
    ),
    "agents where cert-manager is": (
        {**AGENTS, "certificates.mode": "certManager"},
        {f"{AGENT}/spec/volumes/1/projected/sources/0/secret/name": "hostport-shim-tls"},
    ),
    "commonLabels": (
        {"commonLabels": {"cost": "7"}},
        {"Service hostport-shim/metadata/labels/cost": "7", pod("shim", "metadata/labels/cost"): "7"},
    ),
    "image.pullSecrets": (
        {"image.pullSecrets": [{"name": "r"}]},
        {pod(name, "spec/imagePullSecrets"): [{"name": "r"}] for name in ("allocator", "shim")},
    ),
    "image.pullPolicy": (
        {"image.pullPolicy": "Always"},
        {pod("shim", f"spec/containers/{each}/imagePullPolicy"): "Always" for each in (0, 1)},
    ),
    "image.shimDigest": (
        {"image.shimDigest": DIGEST},
        {pod("shim", "spec/containers/0/image"): f"localhost/hostport-operator-shim@{DIGEST}"},
    ),
    "allocator.replicas": ({"allocator.replicas": 2}, {"Deployment hostport-allocator/spec/replicas": 2}),
    "shim.replicas": ({"shim.replicas": 5}, {"Deployment hostport-shim/spec/replicas": 5}),
    "podDisruptionBudget": (
        {"podDisruptionBudget.minAvailable": 1, "shim.replicas": 3},
        {"PodDisruptionBudget hostport-shim/spec/minAvailable": 1},
    ),
    "extraVolumeMounts": (
        {
            f"{name}.{knob}": value
            for name in ("allocator", "shim")
            for knob, value in {
                "extraVolumes": [{"name": "more", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            }.items()
        },
        {
            pod("allocator", "spec/containers/0/volumeMounts/-1"): {"name": "more", "mountPath": "/more"},
            pod("shim", "spec/containers/0/volumeMounts/-1"): {"name": "more", "mountPath": "/more"},
            pod("shim", "spec/containers/1/volumeMounts/-1"): {"name": "more", "mountPath": "/more"},
        },
    ),
    "serviceAnnotations": (
        {"allocator.serviceAnnotations": {"a": "b"}, "shim.serviceAnnotations": {"c": "d"}},
        {
            "Service hostport-allocator/metadata/annotations": {"a": "b"},
            "Service hostport-shim/metadata/annotations": {"c": "d"},
        },
    ),
    "serviceAccountAnnotations": (
        {"allocator.serviceAccountAnnotations": {"a": "b"}, "shim.serviceAccountAnnotations": {"c": "d"}},
        {
            "ServiceAccount hostport-allocator/metadata/annotations": {"a": "b"},
            "ServiceAccount hostport-shim/metadata/annotations": {"c": "d"},
        },
    ),
    "shim.twin": (
        {"shim.twin": False},
        {pod("shim", "spec/containers/1"): None, "Service hostport-shim/spec/ports/3": None},
    ),
    "shim.httpPort": (
        {"shim.httpPort": 9082, "shim.twinHttpPort": 9083},
        {
            pod("shim", "spec/containers/0/args/?"): "--http=0.0.0.0:9082",
            pod("shim", "spec/containers/1/args/?"): "--http=0.0.0.0:9083",
            pod("shim", "spec/containers/1/ports/0/containerPort"): 9083,
        },
    ),
    "webhook.hostNetwork": (
        {"webhook.hostNetwork": True},
        {
            pod("shim", "spec/hostNetwork"): True,
            pod("shim", "spec/dnsPolicy"): "ClusterFirstWithHostNet",
            "Deployment hostport-shim/spec/strategy/rollingUpdate/maxUnavailable": 1,
            "NetworkPolicy hostport-allocator/spec/ingress/1": {"ports": [{"port": "grpc"}]},
        },
    ),
    "webhook.port": (
        {"webhook.port": 10250},
        {
            pod("shim", "spec/containers/0/args/?"): "--listen=0.0.0.0:10250",
            pod("shim", "spec/containers/1/args/?"): "--listen=0.0.0.0:10250",
            pod("shim", "spec/containers/0/ports/0/containerPort"): 10250,
        },
    ),
    "webhook.timeoutSeconds": (
        {"webhook.timeoutSeconds": 8},
        {f"{WEBHOOK}/webhooks/{each}/timeoutSeconds": 8 for each in ENTRIES},
    ),
    "webhook.annotations": ({"webhook.annotations": {"a": "b"}}, {f"{WEBHOOK}/metadata/annotations": {"a": "b"}}),
    "webhook.namespaceSelector": (
        {"webhook.namespaceSelector": [{"key": "tier", "operator": "Exists"}]},
        {
            f"{WEBHOOK}/webhooks/{each}/namespaceSelector/matchExpressions/2": {"key": "tier", "operator": "Exists"}
            for each in ENTRIES
        },
    ),
    "webhook.objectSelector": (
        {"webhook.objectSelector": {"matchLabels": {"ports": "host"}}},
        {
            f"{where}/objectSelector": {"matchLabels": {"ports": "host"}}
            for where in (*(f"{WEBHOOK}/webhooks/{each}" for each in ENTRIES), f"{EVERY_PORT}/spec/matchConstraints")
        },
    ),
    "failurePolicy": (
        {"failurePolicy": "Ignore"},
        {f"{WEBHOOK}/webhooks/{each}/failurePolicy": "Ignore" for each in ENTRIES},
    ),
    "excludedNamespaces": (
        {"excludedNamespaces": ["legacy"]},
        {f"{WEBHOOK}/webhooks/0/namespaceSelector/matchExpressions/0/values/-1": "legacy"},
    ),
    "externalAddress.enabled": (
        {"externalAddress.enabled": False},
        {f"{WEBHOOK}/webhooks/-1/name": "again.pods.hostport.io"},
    ),
    "externalAddress.timeoutSeconds": (
        {"externalAddress.timeoutSeconds": 5},
        {f"{WEBHOOK}/webhooks/-1/timeoutSeconds": 5},
    ),
    "secondQuestion": (
        {"secondQuestion": False},
        {
            f"{WEBHOOK}/webhooks/0/name": "pods.hostport.io",
            f"{WEBHOOK}/webhooks/0/failurePolicy": "Fail",
            f"{WEBHOOK}/webhooks/0/matchConditions/0/name": "asks-for-host-ports",
        },
    ),
    "onlyLabelledNamespaces": (
        {"onlyLabelledNamespaces": True},
        {
            f"{WEBHOOK}/webhooks/{each}/namespaceSelector/matchExpressions/1": {
                "key": "hostport.io/webhook",
                "operator": "In",
                "values": ["enabled"],
            }
            for each in ENTRIES
        },
    ),
    "certificates.shimSecret": (
        {**OWN, "certificates.shimSecret": "s"},
        {pod("shim", "spec/volumes/0/secret/secretName"): "s"},
    ),
    "certificates.allocatorSecret": (
        {**OWN, "certificates.allocatorSecret": "a"},
        {pod("allocator", "spec/volumes/-1/secret/secretName"): "a"},
    ),
    "certificates.shimName": (
        {**OWN, "certificates.shimName": "ports-webhook"},
        {pod("allocator", "spec/containers/0/args/?"): "--shim-name=ports-webhook"},
    ),
    "certificates.delay": (
        {"certificates.mode": "certManager", "certificates.delay": "1h"},
        {pod(name, "spec/containers/0/args/?"): "--certificate-delay=1h" for name in ("allocator", "shim")},
    ),
    "certificates.issuerRef": (
        {"certificates.mode": "certManager", "certificates.issuerRef": {"name": "corp", "kind": "ClusterIssuer"}},
        {"Certificate hostport-shim-tls/spec/issuerRef": {"name": "corp", "kind": "ClusterIssuer"}},
    ),
    "certificates.duration": (
        {"certificates.mode": "certManager", "certificates.duration": "100h", "certificates.renewBefore": "50h"},
        {
            "Certificate hostport-shim-tls/spec/duration": "100h",
            "Certificate hostport-allocator-tls/spec/renewBefore": "50h",
        },
    ),
    "networkPolicy.dnsPorts": (
        {"networkPolicy.dnsPorts": [53, 5353]},
        {"NetworkPolicy hostport-shim/spec/egress/1/ports/-1": {"port": 5353, "protocol": "TCP"}},
    ),
    "networkPolicy extra rules": (
        {
            "networkPolicy.shim.extraIngress": ANYTHING,
            "networkPolicy.shim.extraEgress": ANYTHING,
            "networkPolicy.allocator.extraIngress": ANYTHING,
        },
        {
            "NetworkPolicy hostport-shim/spec/ingress/-1": ANYTHING[0],
            "NetworkPolicy hostport-shim/spec/egress/-1": ANYTHING[0],
            "NetworkPolicy hostport-allocator/spec/ingress/-1": ANYTHING[0],
        },
    ),
    "crds.enabled": ({"crds.enabled": False}, {"CustomResourceDefinition portleases.hostport.io": None}),
    "crds.keep": (
        {"crds.keep": False},
        {"CustomResourceDefinition portleases.hostport.io/metadata/annotations": None},
    ),
    "podMonitor": (
        {"podMonitor.enabled": True, "podMonitor.interval": "15s", "podMonitor.labels": {"release": "p"}},
        {
            "PodMonitor hostport-operator/metadata/labels/release": "p",
            "PodMonitor hostport-operator/spec/podMetricsEndpoints": [
                {"port": port, "path": "/metrics", "interval": "15s"} for port in ("http", "http-twin")
            ],
        },
    ),
    "dashboard": (
        {"dashboard.enabled": True, "dashboard.annotations": {"grafana_folder": "K"}},
        {
            "ConfigMap hostport-dashboard/metadata/labels/grafana_dashboard": "1",
            "ConfigMap hostport-dashboard/metadata/annotations": {"grafana_folder": "K"},
        },
    ),
    "alerts": (
        {"alerts.enabled": True, "alerts.scrapedElsewhere": True, "alerts.runbooks": "https://wiki/r"},
        {
            "PrometheusRule hostport-operator/spec/groups/0/rules/0/annotations/runbook_url": (
                "https://wiki/r#hostportnoallocator"
            )
        },
    ),
}

KNOBS: dict[str, tuple[Values, Expected]] = (
    {
        f"{program}.{knob}": (
            {f"{program}.{knob}": value},
            {pod(program, path): {**wanted, "memory": wanted["memory"][program]} if knob == "resources" else wanted},
        )
        for program in ("allocator", "shim")
        for knob, (value, path, wanted) in OF_A_PROGRAM.items()
    }
    | {
        knob: ({knob: value}, {pod(program, "spec/containers/0/args/?"): flag})
        for knob, (value, program, flag) in FLAGS.items()
    }
    | OTHERS
)


def found(objects: Objects, path: str, wanted: Any) -> Any:
    """What stands at a path; at `?` of a list the wanted item, if it is in it."""
    kind_and_name, *steps = path.split("/")
    thing: Any = objects.get(kind_and_name)
    keys = iter(steps)
    for step in keys:
        if isinstance(thing, list):
            if step == "?":
                return wanted if wanted in thing else thing
            at = int(step)
            thing = thing[at] if -len(thing) <= at < len(thing) else None
        elif isinstance(thing, dict):
            rest = "/".join([step, *keys]) if step not in thing else step
            thing = thing.get(rest)
        else:
            return None
    return thing


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[ControlPlane]:
    """With the namespace of the release, which is gone afterwards: others make it as they need it."""
    create_namespace(plane, NAMESPACE)
    yield plane
    plane.kubectl("delete", "namespace", NAMESPACE)


@pytest.mark.parametrize(("values", "expected"), KNOBS.values(), ids=KNOBS)
def test_a_knob_reaches_the_objects_and_an_api_server_takes_them(
    helm: Helm, server: ControlPlane, values: Values, expected: Expected
) -> None:
    rendered = helm.rendered(values)
    objects = {f"{each['kind']} {each['metadata']['name']}": each for each in rendered}

    assert {path: found(objects, path, wanted) for path, wanted in expected.items()} == expected

    known = [each for each in rendered if each["kind"] not in NOT_OF_A_BARE_CLUSTER]
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": known})
    applied = server.kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=whole)
    assert (applied.code, applied.stderr) == (0, "")


ELSEWHERE = {
    *("image.repository", "image.tag", "image.allocatorDigest", "priorityClassName", "logLevel", "test.namespace"),
    *("test.podSecurityContext", "test.securityContext", "test.labels"),
    *("certificates.caDuration", "certificates.caRenewBefore", "dashboard.labels", "alerts.labels"),
    *(f"{name}.enabled" for name in ("networkPolicy", "admissionPolicies", "flowControl", "podDisruptionBudget")),
}
"""Values that the other tests of the chart are about."""


def test_every_value_of_the_chart_is_in_this_table() -> None:
    table = render.markdown((render.CHART / "values.yaml").read_text(encoding="utf-8"))
    values = {match[1] for line in table if (match := re.match(r"\| `([^`]+)`", line))}
    turned = {name for values, _ in KNOBS.values() for name in values}

    assert values - turned == ELSEWHERE
