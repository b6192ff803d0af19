"""What deploy/base promises to every cluster, held word by word, without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from shim.webhook import AGAIN_PORT

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BASE = DEPLOY / "base"
FAIL_OPEN = DEPLOY / "overlays" / "fail-open" / "manifests.yaml"
ALONE = ["kube-system", "kube-node-lease", "hostport-system"]
LEFT_ALONE = {
    "matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ALONE},
        {"key": "hostport.io/webhook", "operator": "NotIn", "values": ["ignore"]},
    ]
}
LOST_NODE = {  # seconds that a Pod stays on it, by what it lacks
    "hostport-allocator": {"not-ready": 30, "unreachable": 10},
    "hostport-shim": {"not-ready": 30, "unreachable": 30},
}
RESTRICTED_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

Object = dict[str, Any]


def objects() -> dict[str, Object]:
    names = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    files = (FAIL_OPEN, *(BASE / name for name in names))  # what is in both is taken from the base
    every = [each for file in files for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    return {f"{each['kind']} {each['metadata']['name']}": each for each in every}


OBJECTS = objects()
WEBHOOK = OBJECTS["MutatingWebhookConfiguration hostport-operator"]
PROGRAMS = ("hostport-allocator", "hostport-shim")


def empty(thing: Any, path: str = "") -> list[str]:
    """Where nothing stands behind a key."""
    if isinstance(thing, dict):
        return [found for key, value in thing.items() for found in empty(value, f"{path}/{key}")]
    if isinstance(thing, list):
        return [found for index, value in enumerate(thing) for found in empty(value, f"{path}/{index}")]
    return [path] if thing is None else []


@pytest.mark.parametrize("name", OBJECTS)
def test_no_sentence_was_taken_for_keys(name: str) -> None:
    """In braces a comma ends a value, unless that is quoted."""
    assert empty(OBJECTS[name]) == []


def pod_of(program: str) -> Object:
    found: Object = OBJECTS[f"Deployment {program}"]["spec"]["template"]["spec"]
    return found


NEVER_IN_THE_WAY = {
    "admissionReviewVersions": ["v1"],
    "rules": [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods"],
            "operations": ["CREATE"],
            "scope": "Namespaced",
        }
    ],
    "matchPolicy": "Equivalent",
    "sideEffects": "NoneOnDryRun",
    "reinvocationPolicy": "IfNeeded",
    "timeoutSeconds": 5,
    "namespaceSelector": LEFT_ALONE,
}
ENTRIES = {
    "pods.hostport.io": ("Ignore", ["asks-for-host-ports"]),
    "again.pods.hostport.io": ("Fail", ["asks-and-was-not-answered"]),
}
"""In this order: what one fails to answer the next asks again, and no Pod passes for answered by what it brings."""


ON_PODS, (ON_BINDINGS,) = WEBHOOK["webhooks"][:-1], WEBHOOK["webhooks"][-1:]


def test_the_webhook_never_stands_in_a_clusters_way() -> None:
    for webhook in ON_PODS:
        assert {key: webhook[key] for key in NEVER_IN_THE_WAY} == NEVER_IN_THE_WAY


def test_the_second_question_has_a_port_of_its_own() -> None:
    """The API server keeps connections for each way to a webhook: those of the first question may have died."""
    services = {webhook["name"]: webhook["clientConfig"]["service"] for webhook in ON_PODS}
    shim = {"namespace": "hostport-system", "name": "hostport-shim", "path": "/mutate"}
    targets = {each["port"]: each["targetPort"] for each in OBJECTS["Service hostport-shim"]["spec"]["ports"]}

    assert services == {"pods.hostport.io": shim | {"port": 443}, "again.pods.hostport.io": shim | {"port": AGAIN_PORT}}
    assert (targets[443], targets[AGAIN_PORT]) == ("webhook", "webhook")


def test_a_pod_is_asked_about_again_and_refused_only_after_that() -> None:
    entries = {
        webhook["name"]: (webhook["failurePolicy"], [each["name"] for each in webhook["matchConditions"]])
        for webhook in ON_PODS
    }

    assert list(entries) == list(ENTRIES)
    assert entries == ENTRIES


ASKS = (
    "has(object.metadata.annotations)",
    "'hostport.io/enabled' in object.metadata.annotations",
    "object.metadata.annotations['hostport.io/enabled'] != 'false'",
)
NO_MIRROR = "!('kubernetes.io/config.mirror' in object.metadata.annotations)"


def test_bindings_are_asked_about_where_the_label_is_and_keep_no_pod_from_its_node() -> None:
    about = {key: ON_BINDINGS[key] for key in ("name", "failurePolicy", "timeoutSeconds", "sideEffects")}
    labelled, *rest = ON_BINDINGS["namespaceSelector"]["matchExpressions"]

    assert about == {
        "name": "bindings.pods.hostport.io",
        "failurePolicy": "Ignore",
        "timeoutSeconds": 2,
        "sideEffects": "None",
    }
    assert labelled == {"key": "hostport.io/external-address", "operator": "In", "values": ["true"]}
    assert rest == LEFT_ALONE["matchExpressions"]
    assert ON_BINDINGS["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods/binding", "bindings"],
            "operations": ["CREATE"],
            "scope": "Namespaced",
        }
    ]
    assert ON_BINDINGS["clientConfig"]["service"]["path"] == "/binding"


def test_every_entry_looks_first_whether_the_pod_asks_and_in_one_expression() -> None:
    for webhook in ON_PODS:
        (condition,) = webhook["matchConditions"]
        parts = condition["expression"].split(" && ")
        assert tuple(parts[:3]) == ASKS
        assert NO_MIRROR in parts


@pytest.mark.parametrize("other", ["istio-sidecar-injector", "linkerd-proxy-injector-webhook-config"])
def test_the_webhook_is_called_before_injectors(other: str) -> None:
    assert WEBHOOK["metadata"]["name"] < other


@pytest.mark.parametrize("policy", ["hostport-annotations-stay", "hostport-every-port-given", "hostport-ports-given"])
def test_the_policies_leave_alone_what_the_webhook_leaves_alone(policy: str) -> None:
    binding = OBJECTS[f"ValidatingAdmissionPolicyBinding {policy}"]["spec"]
    conditions = OBJECTS[f"ValidatingAdmissionPolicy {policy}"]["spec"]["matchConditions"]

    assert binding["matchResources"] == {"namespaceSelector": LEFT_ALONE}
    assert binding["validationActions"] == ["Deny"]
    assert "kubernetes.io/config.mirror" in str(conditions)


def test_bindings_are_guarded_where_pods_are_and_in_exempt_namespaces_too() -> None:
    binding = OBJECTS["ValidatingAdmissionPolicyBinding hostport-bindings-carry-nothing"]["spec"]
    by_name, _by_label = LEFT_ALONE["matchExpressions"]

    assert binding["matchResources"] == {"namespaceSelector": {"matchExpressions": [by_name]}}


def test_the_webhook_stays_for_the_allocator_alone_and_everywhere() -> None:
    policy = OBJECTS["ValidatingAdmissionPolicy hostport-webhook-stays"]["spec"]
    (condition,) = policy["matchConditions"]

    assert policy["failurePolicy"] == "Fail"
    assert "matchResources" not in OBJECTS["ValidatingAdmissionPolicyBinding hostport-webhook-stays"]["spec"]
    assert condition["expression"] == (
        "request.userInfo.username == 'system:serviceaccount:hostport-system:hostport-allocator'"
    )


def test_an_update_of_a_pod_is_held_against_the_allocators_rule_in_its_own_namespace_alone() -> None:
    """It may patch Pods nowhere else, and each policy that applies costs the API server."""
    binding = OBJECTS["ValidatingAdmissionPolicyBinding hostport-pods-stay"]["spec"]

    assert binding["matchResources"] == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "hostport-system"}}
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_lives_within_the_strictest_profile(program: str) -> None:
    pod = pod_of(program)

    assert pod["securityContext"].items() >= RESTRICTED_POD.items()
    assert [each["securityContext"] for each in pod["containers"]] == [RESTRICTED_CONTAINER] * len(pod["containers"])
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    labels = OBJECTS["Namespace hostport-system"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_leaves_a_lost_node_in_half_a_minute_and_goes_before_no_other_pod(program: str) -> None:
    pod = pod_of(program)

    assert pod["tolerations"] == [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        for key, seconds in LOST_NODE[program].items()
    ]
    assert pod["priorityClassName"] == "system-cluster-critical"


@pytest.mark.parametrize("program", PROGRAMS)
def test_probes_ask_nobody_but_the_program_itself(program: str) -> None:
    for container in pod_of(program)["containers"]:
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        http = next(name for name in ports if name.startswith("http"))
        is_alive = {"path": "/healthz", "port": http}
        is_ready = (
            {"grpc": {"port": ports["grpc-health"]}}
            if program == "hostport-allocator"
            else {"httpGet": {"path": "/readyz", "port": http}}
        )

        assert {name: container[name].get("httpGet") for name in ("startupProbe", "livenessProbe")} == {
            "startupProbe": is_alive,
            "livenessProbe": is_alive,
        }
        assert is_ready.items() <= container["readinessProbe"].items()


def test_a_shim_is_always_there() -> None:
    deployment, labels = OBJECTS["Deployment hostport-shim"]["spec"], {"app.kubernetes.io/name": "hostport-shim"}
    pod = pod_of("hostport-shim")
    (apart,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    (spread,) = pod["topologySpreadConstraints"]

    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }
    assert OBJECTS["PodDisruptionBudget hostport-shim"]["spec"] == {
        "minAvailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": labels},
    }
    assert apart["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert (spread["topologyKey"], spread["matchLabelKeys"]) == ("topology.kubernetes.io/zone", ["pod-template-hash"])


def test_a_shim_that_is_told_to_go_has_time_to_be_forgotten_and_to_finish() -> None:
    pod = pod_of("hostport-shim")
    forgotten, drained = 10, 30

    assert all(f"--shutdown-delay={forgotten}s" in container["args"] for container in pod["containers"])
    assert pod["terminationGracePeriodSeconds"] > forgotten + drained


def test_the_two_shims_of_a_pod_differ_in_nothing_but_name_and_port_of_their_own() -> None:
    def bare(container: Object, port: str) -> str:
        kept = {key: value for key, value in container.items() if key not in {"name", "ports"}}
        return str(kept).replace(port, "PORT").replace("http-twin", "http")

    shim, twin = pod_of("hostport-shim")["containers"]

    assert bare(shim, "8082") == bare(twin, "8083")
    assert "--reuse-port" in shim["args"]


def test_a_new_allocator_stands_by_before_the_old_one_is_told_to_stop() -> None:
    spec = OBJECTS["Deployment hostport-allocator"]["spec"]

    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert (spec["replicas"], spec["strategy"]) == (1, rolling)


def test_the_budget_of_the_allocator_lets_a_node_with_its_only_replica_be_drained() -> None:
    spec = OBJECTS["PodDisruptionBudget hostport-allocator"]["spec"]

    assert (spec["maxUnavailable"], "minAvailable" in spec) == (1, False)


def test_the_service_leads_to_the_one_that_serves_and_the_shims_know_all() -> None:
    name = {"app.kubernetes.io/name": "hostport-allocator"}
    selectors = {
        each: OBJECTS[f"Service {each}"]["spec"]["selector"]
        for each in ("hostport-allocator", "hostport-allocator-replicas")
    }

    assert selectors == {
        "hostport-allocator": name | {"hostport.io/serving": "true"},
        "hostport-allocator-replicas": name,
    }
    for shim in pod_of("hostport-shim")["containers"]:
        assert "--allocator-replicas=hostport-allocator-replicas.hostport-system.svc:50051" in shim["args"]


def test_only_the_allocator_has_a_token_and_its_life_is_an_hour() -> None:
    def tokens(program: str) -> list[Object]:
        volumes = [each["projected"] for each in pod_of(program)["volumes"] if "projected" in each]
        sources = [source for volume in volumes for source in volume["sources"]]
        return [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]

    assert tokens("hostport-shim") == []
    assert tokens("hostport-allocator") == [{"path": "token", "expirationSeconds": 3600}]
