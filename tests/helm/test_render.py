"""What the chart makes of its values: what kustomize makes of deploy/base, and what somebody asked to be different."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import render
import yaml
from e2e.binaries import CHECKOUT

from helm.helm import CHART, NAMESPACE, NEW_ENOUGH, RELEASE, Helm, Values, settings

WHOSE = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
}
CA = "Q0E="
WEBHOOK = "MutatingWebhookConfiguration hostport-operator"
SHIM, ALLOCATOR = "Deployment hostport-shim", "Deployment hostport-allocator"

Object = dict[str, Any]


def kustomized(overlay: str) -> list[Object]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl, which has kustomize in it")
    folder = CHECKOUT / "deploy" / "overlays" / overlay
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def by_name(objects: Iterable[Object]) -> dict[str, Object]:
    return {f"{each['kind']} {each['metadata']['name']}": each for each in objects}


def without_the_namespace(objects: Iterable[Object]) -> dict[str, Object]:
    """Helm makes it."""
    return by_name(each for each in objects if each["kind"] != "Namespace")


OVERLAYS: dict[str, tuple[str, Values]] = {
    "as it is": ("default", {}),
    "existingSecret": ("own-secrets", {"certificates.mode": "existingSecret", "certificates.caBundle": CA}),
    "failurePolicy Ignore": ("fail-open", {"failurePolicy": "Ignore"}),
    "one question": ("ask-once", {"secondQuestion": False}),
    "two allocators": ("standby", {"allocator.replicas": 2}),
    "certManager": ("cert-manager", {"certificates.mode": "certManager"}),
}


@pytest.mark.parametrize(("overlay", "values"), OVERLAYS.values(), ids=OVERLAYS)
def test_both_ways_of_installing_make_the_same_objects(helm: Helm, overlay: str, values: Values) -> None:
    made = by_name(helm.rendered(values))
    if overlay == "own-secrets":
        for each in made[WEBHOOK]["webhooks"]:
            assert each["clientConfig"].pop("caBundle") == CA

    assert made == without_the_namespace(kustomized(overlay))


def test_the_manifests_are_what_the_chart_makes(helm: Helm) -> None:
    assert render.stale(render.described() | render.manifests(helm.program)) == []


def test_the_alerts_are_those_of_deploy_monitoring(helm: Helm) -> None:
    alerts = yaml.safe_load((CHECKOUT / "deploy" / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
    made = by_name(
        helm.rendered({"podMonitor.enabled": True, "alerts": {"enabled": True, "labels": {"release": "prometheus"}}})
    )
    rule = made["PrometheusRule hostport-operator"]

    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == alerts["spec"]


@pytest.mark.parametrize("asks_twice", [True, False], ids=["two entries", "one entry"])
def test_alerts_and_dashboard_count_silence_of_the_entry_that_insists(helm: Helm, asks_twice: bool) -> None:
    values = {
        "podMonitor.enabled": True,
        "alerts.enabled": True,
        "dashboard.enabled": True,
        "secondQuestion": asks_twice,
    }
    made = by_name(helm.rendered(values))
    entries = [each["name"] for each in made[WEBHOOK]["webhooks"] if not each["name"].startswith("bindings.")]
    alerts, dashboard = made["PrometheusRule hostport-operator"]["spec"], made["ConfigMap hostport-dashboard"]["data"]
    counted = re.compile(r'webhook_fail_open_count\{name=\\"([^"\\]+)')

    assert {*counted.findall(json.dumps(alerts))} == {entries[-1]}
    assert {*counted.findall(dashboard["hostport-operator.json"])} == {entries[-1]}


def test_the_alerts_link_to_your_copy_of_the_runbooks(helm: Helm) -> None:
    values = {"podMonitor.enabled": True, "alerts": {"enabled": True, "runbooks": "https://wiki.example/hostport"}}

    rules = by_name(helm.rendered(values))["PrometheusRule hostport-operator"]["spec"]["groups"]

    links = [rule["annotations"]["runbook_url"] for group in rules for rule in group["rules"]]
    assert links
    assert all(link.startswith("https://wiki.example/hostport#hostport") for link in links)


def test_every_object_says_whose_it_is(helm: Helm) -> None:
    made = helm.rendered()

    assert [name for name, each in by_name(made).items() if WHOSE - set(each["metadata"]["labels"])] == []


def pod_of_the_test(helm: Helm, values: Values) -> Object:
    """That of `helm test`, which is a hook."""
    shown = ("--show-only", "templates/tests/dry-run.yaml")
    run = helm("template", RELEASE, str(CHART), NEW_ENOUGH, *shown, *settings(values))
    return by_name(yaml.safe_load_all(run.stdout))["Pod hostport-test"]


def test_the_pod_of_helm_test_runs_as_whom_the_platform_says(helm: Helm) -> None:
    ours = pod_of_the_test(helm, {})["spec"]
    given = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    theirs = pod_of_the_test(helm, {"test.podSecurityContext": given, "test.securityContext": {"privileged": False}})[
        "spec"
    ]

    assert ours["securityContext"]["runAsUser"] == 65532
    assert ours["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert theirs["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert theirs["containers"][0]["securityContext"]["privileged"] is False


LABELLED: dict[str, tuple[Values, Mapping[str, str] | None]] = {
    "none": ({}, None),
    "those that the webhook asks for": ({"webhook.objectSelector": {"matchLabels": {"a/b": "yes"}}}, {"a/b": "yes"}),
    "those that are named": (
        {"webhook.objectSelector": {"matchLabels": {"a": "b"}}, "test.labels": {"a": "b", "c": "1"}},
        {"a": "b", "c": "1"},
    ),
    "none that could be told": (
        {"webhook.objectSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
        None,
    ),
}


@pytest.mark.parametrize(("values", "labels"), LABELLED.values(), ids=LABELLED)
def test_the_pod_that_helm_test_tries_has_labels(helm: Helm, values: Values, labels: Mapping[str, str] | None) -> None:
    environ = {each["name"]: each["value"] for each in pod_of_the_test(helm, values)["spec"]["containers"][0]["env"]}

    assert json.loads(environ.get("TEST_LABELS", "null")) == labels


def container(objects: Mapping[str, Object], name: str) -> Object:
    found: Object = objects[name]["spec"]["template"]["spec"]["containers"][0]
    return found


def test_the_values_reach_the_programs(helm: Helm) -> None:
    made = by_name(
        helm.rendered(
            {
                "image.repository": "registry.example:5000/team/hostport",
                "image.tag": "v9",
                "image.shimDigest": "sha256:" + "ab" * 32,
                "image.pullPolicy": "Always",
                "image.pullSecrets": [{"name": "registry"}],
                "whenFull": "Pending",
                "reservedPorts": "22,9100-9200",
                "discloseHolders": "all",
                "logLevel": "debug",
                "priorityClassName": "",
                "shim.replicas": 4,
                "shim.resources": {"limits": {"memory": "1Gi"}},
                "shim.extraArgs": ["--max-concurrent=50"],
                "shim.nodeSelector": {"pool": "system"},
                "allocator.tolerations": [{"operator": "Exists"}],
                "allocator.extraArgs": ["--reservation-ttl=60s"],
            }
        )
    )
    shim, allocator = container(made, SHIM), container(made, ALLOCATOR)
    shim_pod, allocator_pod = (made[name]["spec"]["template"]["spec"] for name in (SHIM, ALLOCATOR))

    assert shim["image"] == "registry.example:5000/team/hostport-shim@sha256:" + "ab" * 32
    assert allocator["image"] == "registry.example:5000/team/hostport-allocator:v9"
    assert shim["args"][-2:] == ["--log-level=debug", "--max-concurrent=50"]
    assert {
        "--when-full=Pending",
        "--reserved-ports=22,9100-9200",
        "--disclose-holders=all",
        "--log-level=debug",
        "--reservation-ttl=60s",
    } <= set(allocator["args"])
    assert shim["resources"]["limits"] == {"memory": "1Gi"}
    assert made[SHIM]["spec"]["replicas"] == 4
    assert shim_pod["nodeSelector"] == {"pool": "system"}
    assert allocator_pod["tolerations"][-1] == {"operator": "Exists"}
    for pod in (shim_pod, allocator_pod):
        assert pod["containers"][0]["imagePullPolicy"] == "Always"
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert "priorityClassName" not in pod


def test_a_text_that_yaml_would_take_for_something_else_stays_a_text(helm: Helm) -> None:
    odd = ["123", "null", "on", "1e3"]
    made = by_name(
        helm.rendered(
            {
                "excludedNamespaces": odd,
                "failurePolicy": "Ignore",
                "priorityClassName": "1e3",
                "agent.enabled": True,
                "allocator.tokenAudience": "a: b, #c",
                "allocator.pageHosts": ["null", "a b"],
                "certificates.mode": "existingSecret",
                "certificates.caBundle": "1234",
                "certificates.shimSecret": "123",
                "certificates.allocatorSecret": "456",
                "alerts.enabled": True,
                "alerts.scrapedElsewhere": True,
                "alerts.labels": {"a": "1"},
                "commonLabels": {"b": "null"},
            }
        )
    )
    webhooks, agent = made[WEBHOOK]["webhooks"], made["DaemonSet hostport-agent"]["spec"]["template"]["spec"]
    selectors = [each["namespaceSelector"] for each in webhooks] + [
        each["spec"]["matchResources"]["namespaceSelector"]
        for name, each in made.items()
        if name.startswith("ValidatingAdmissionPolicyBinding")
        if "matchExpressions" in each["spec"].get("matchResources", {}).get("namespaceSelector", {})
    ]
    listed = [
        rule["values"]
        for each in selectors
        for rule in each["matchExpressions"]
        if rule["key"] == "kubernetes.io/metadata.name"
    ]
    token = agent["volumes"][2]["projected"]["sources"][0]["serviceAccountToken"]

    assert len(listed) >= 6
    assert all(values[3:] == odd for values in listed)
    assert {each["clientConfig"]["caBundle"] for each in webhooks} == {"1234"}
    assert agent["priorityClassName"] == "1e3"
    assert agent["volumes"][1]["projected"]["sources"][0]["secret"]["name"] == "123"
    assert token["audience"] == "a: b, #c"
    assert {"--token-audience=a: b, #c", "--page-hosts=null,a b"} <= set(container(made, ALLOCATOR)["args"])
    assert made[SHIM]["spec"]["template"]["spec"]["volumes"][0]["secret"]["secretName"] == "123"
    assert made["PrometheusRule hostport-operator"]["metadata"]["labels"]["a"] == "1"
    assert made[SHIM]["metadata"]["labels"]["b"] == "null"


@pytest.mark.parametrize("name", ["123", "on"])
def test_a_namespace_may_have_a_name_that_yaml_would_take_for_something_else(helm: Helm, name: str) -> None:
    values = settings({"test.namespace": "456", "agent.enabled": True, "podMonitor.enabled": True})
    made = subprocess.run(
        [helm.program, "template", RELEASE, str(CHART), NEW_ENOUGH, "--namespace", name, *values],
        capture_output=True,
        text=True,
        check=True,
    )

    places = {
        each["metadata"]["namespace"] for each in yaml.safe_load_all(made.stdout) if "namespace" in each["metadata"]
    }
    assert places - {"kube-system"} == {name, "456"}


@pytest.mark.parametrize("mode", ["builtin", "certManager", "existingSecret"])
def test_the_last_flags_are_those_that_were_added_by_hand(helm: Helm, mode: str) -> None:
    flag = "--certificate-delay=1m"
    added: Values = {f"{program}.extraArgs": [flag] for program in ("allocator", "shim")} | {
        "agent.enabled": True,
        "agent.extraArgs": [flag],
        "certificates.mode": mode,
        "certificates.caBundle": CA if mode == "existingSecret" else "",
    }
    made = by_name(helm.rendered(added))

    for name in (SHIM, ALLOCATOR, "DaemonSet hostport-agent"):
        for each in made[name]["spec"]["template"]["spec"]["containers"]:
            assert each["args"][-1] == flag


def test_excluded_namespaces_are_left_alone_by_webhook_and_policies_alike(helm: Helm) -> None:
    made = by_name(helm.rendered({"excludedNamespaces": ["legacy", "vendor"], "failurePolicy": "Ignore"}))
    selectors = [
        made[WEBHOOK]["webhooks"][0]["namespaceSelector"],
        *(
            made[f"ValidatingAdmissionPolicyBinding {name}"]["spec"]["matchResources"]["namespaceSelector"]
            for name in ("hostport-annotations-stay", "hostport-ports-given")
        ),
    ]

    assert made[WEBHOOK]["webhooks"][0]["failurePolicy"] == "Ignore"
    assert [selector["matchExpressions"] for selector in selectors] == [
        [
            {
                "key": "kubernetes.io/metadata.name",
                "operator": "NotIn",
                "values": ["kube-system", "kube-node-lease", "hostport-system", "legacy", "vendor"],
            },
            {"key": "hostport.io/webhook", "operator": "NotIn", "values": ["ignore"]},
        ]
    ] * 3


def test_only_labelled_namespaces_are_looked_at_by_webhook_and_policies_alike(helm: Helm) -> None:
    made = by_name(helm.rendered({"onlyLabelledNamespaces": True, "failurePolicy": "Ignore"}))
    bindings = ("annotations-stay", "every-port-given", "ports-given")
    selectors = [
        *(webhook["namespaceSelector"] for webhook in made[WEBHOOK]["webhooks"][:2]),
        *(
            made[f"ValidatingAdmissionPolicyBinding hostport-{name}"]["spec"]["matchResources"]["namespaceSelector"]
            for name in bindings
        ),
    ]

    assert [selector["matchExpressions"][1] for selector in selectors] == [
        {"key": "hostport.io/webhook", "operator": "In", "values": ["enabled"]}
    ] * 5


def test_pods_that_the_webhook_is_not_called_for_are_refused_by_no_policy_for_having_no_ports(helm: Helm) -> None:
    ours, tier = {"matchLabels": {"ports": "host"}}, {"key": "tier", "operator": "Exists"}
    narrowed = {"webhook.objectSelector": ours, "webhook.namespaceSelector": [tier], "failurePolicy": "Ignore"}
    made = by_name(helm.rendered(narrowed))
    for name in ("hostport-ports-given", "hostport-every-port-given"):
        policy, binding = (made[f"ValidatingAdmissionPolicy{kind} {name}"]["spec"] for kind in ("", "Binding"))

        assert policy["matchConstraints"]["objectSelector"] == ours
        assert binding["matchResources"]["namespaceSelector"] == made[WEBHOOK]["webhooks"][0]["namespaceSelector"]


@pytest.mark.parametrize(
    ("values", "label"),
    [({}, "!= ignore"), ({"onlyLabelledNamespaces": True, "failurePolicy": "Ignore"}, "== enabled")],
    ids=["all but the exempt", "those that ask"],
)
def test_a_binding_is_looked_at_everywhere_and_brings_something_only_where_the_webhook_is_asked(
    helm: Helm, values: dict[str, Any], label: str
) -> None:
    made = by_name(helm.rendered(values))
    name = "hostport-bindings-carry-nothing"
    selector = made[f"ValidatingAdmissionPolicyBinding {name}"]["spec"]["matchResources"]["namespaceSelector"]
    (rule,) = made[f"ValidatingAdmissionPolicy {name}"]["spec"]["validations"]

    assert [each["key"] for each in selector["matchExpressions"]] == ["kubernetes.io/metadata.name"]
    is_asked = label.startswith("==")
    webhook = "namespaceObject.metadata.labels['hostport.io/webhook']"
    assert f"{webhook} == '{label.split()[1]}'" in rule["expression"]
    assert ("!('hostport.io/webhook' in" in rule["expression"]) is not is_asked


def test_a_binding_brings_nothing_where_no_webhook_is_asked_about_bindings(helm: Helm) -> None:
    made = by_name(helm.rendered({"externalAddress.enabled": False}))
    (rule,) = made["ValidatingAdmissionPolicy hostport-bindings-carry-nothing"]["spec"]["validations"]

    assert "bindings.pods.hostport.io" not in [each["name"] for each in made[WEBHOOK]["webhooks"]]
    assert rule["expression"] == "false"
    assert "let through" not in rule["message"]


def test_where_nobody_asks_twice_and_the_webhook_fails_open_the_policy_of_every_port_stays(helm: Helm) -> None:
    made = by_name(helm.rendered({"secondQuestion": False, "failurePolicy": "Ignore"}))

    assert [each["name"] for each in made[WEBHOOK]["webhooks"]] == ["pods.hostport.io", "bindings.pods.hostport.io"]
    assert made[WEBHOOK]["webhooks"][0]["failurePolicy"] == "Ignore"
    assert "ValidatingAdmissionPolicy hostport-every-port-given" in made


OFF = {
    "podDisruptionBudget": {"PodDisruptionBudget"},
    "networkPolicy": {"NetworkPolicy"},
    "admissionPolicies": {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"},
    "flowControl": {"FlowSchema", "PriorityLevelConfiguration"},
}


@pytest.mark.parametrize(("value", "kinds"), OFF.items(), ids=OFF)
def test_what_is_switched_off_is_not_made(helm: Helm, value: str, kinds: set[str]) -> None:
    every = {each["kind"] for each in helm.rendered()}

    assert {each["kind"] for each in helm.rendered({f"{value}.enabled": False})} == every - kinds
    assert kinds <= every


WRONG: dict[str, tuple[Values, str]] = {
    "an unknown value": ({"shim.replica": 3}, "additional properties 'replica' not allowed"),
    "an unknown value at the top": ({"failurepolicy": "Fail"}, "additional properties 'failurepolicy' not allowed"),
    "no allocator": ({"allocator.replicas": 0}, "minimum: got 0, want 1"),
    "no shim": ({"shim.replicas": 0}, "minimum: got 0, want 1"),
    "a policy that is none": ({"failurePolicy": "fail"}, "value must be one of 'Fail', 'Ignore'"),
    "a mode that is none": ({"certificates.mode": "letsencrypt"}, "value must be one of 'builtin'"),
    "a flag without dashes": ({"shim.extraArgs": ["log-level=debug"]}, "does not match pattern"),
    "a digest that is cut off": ({"image.shimDigest": "sha256:abc"}, "does not match pattern"),
    "a repository with a tag": ({"image.repository": "team/hostport:v1"}, "does not match pattern"),
    "numbers that are none": ({"reservedPorts": "22-"}, "does not match pattern"),
    "a preset that is none": ({"reservedPorts": "cillium"}, "does not match pattern"),
    "a namespace that is none": ({"excludedNamespaces": ["Kube_System"]}, "does not match pattern"),
    "a budget that stops every drain": ({"shim.replicas": 1}, "every node drain would hang"),
    "own Secrets without an authority": ({"certificates.mode": "existingSecret"}, "set certificates.caBundle"),
    "alerts of what nobody scrapes": ({"alerts.enabled": True}, "nothing scrapes the programs"),
    "reserving without agents": ({"agent.reserve": True}, "there are no agents"),
    "a name of shims that nobody certifies": ({"certificates.shimName": "mine"}, "is made for hostport-shim"),
    "a delay that is none": ({"shim.shutdownDelay": ""}, "does not match pattern"),
    "a cool-down that is too long": ({"coolDown": "1h1s"}, "coolDown is 1h1s, and the longest is 1h"),
    "agents that never look": ({"agent.interval": "0s"}, "does not match pattern"),
    "agents that look too seldom": ({"agent.interval": "61s"}, "does not match pattern"),
    "a number that is none": ({"reservedPorts": "kubernetes,99999"}, "reservedPorts has 99999"),
    "zero": ({"reservedPorts": "0"}, "reservedPorts has 0,"),
    "a range backwards": ({"reservedPorts": "22,90-10"}, "reservedPorts has 90-10"),
    "certificates that live too short": ({"certificates.lifetime": "30m"}, "six times certificates.propagation"),
    "an authority that lives too short": ({"certificates.caLifetime": "1000h"}, "twice certificates.lifetime"),
    "an issuer without a name": (
        {"certificates.mode": "certManager", "certificates.issuerRef": {"kind": "ClusterIssuer"}},
        "certificates.issuerRef has no name",
    ),
    "labels that selectors go by": (
        {"commonLabels": {"app.kubernetes.io/part-of": "platform"}},
        "commonLabels has app.kubernetes.io/part-of",
    ),
    "a label that the agents' DaemonSet has": (
        {"commonLabels": {"app.kubernetes.io/component": "ports"}},
        "commonLabels has app.kubernetes.io/component",
    ),
    "labels of Pods that selectors go by": (
        {"shim.podLabels": {"app.kubernetes.io/name": "x"}},
        "shim.podLabels has app.kubernetes.io/name",
    ),
    "labels that are no text": (
        {"alerts.enabled": True, "alerts.scrapedElsewhere": True, "alerts.labels": {"a": 1}},
        "got number, want string",
    ),
    "a budget of nothing": ({"podDisruptionBudget.minAvailable": None}, "missing property 'minAvailable'"),
    "no port for names": ({"networkPolicy.dnsPorts": None}, "missing property 'dnsPorts'"),
    "no mode": ({"certificates.mode": None}, "missing property 'mode'"),
    "two programs on one port": ({"shim.twinHttpPort": 8082}, "two programs of one Pod cannot listen on one port"),
    "the webhook on a port that is taken": ({"webhook.port": 8083}, "webhook.port is 8083"),
    "Secrets that somebody else names": ({"certificates.shimSecret": "mine"}, "its maker names it"),
    "a port that is none": ({"webhook.port": 70000}, "maximum: got 70,000, want 65,535"),
    "an authority that nobody asked for": (
        {"certificates.caBundle": CA},
        "caBundle is set, but with certificates.mode",
    ),
    "a certificate that is renewed before it is made": (
        {"certificates.mode": "certManager", "certificates.duration": "24h"},
        "certificates.renewBefore is 720h, and certificates.duration 24h",
    ),
    "an authority that is renewed before it is made": (
        {"certificates.mode": "certManager", "certificates.caDuration": "9000h"},
        "certificates.caRenewBefore is 17520h, and certificates.caDuration 9000h",
    ),
    "an authority that may end before a certificate of it": (
        {"certificates.mode": "certManager", "certificates.caRenewBefore": "720h"},
        "certificates.caRenewBefore is 720h, and a certificate lives for 2160h",
    ),
    "an issuer that nobody asks": (
        {"certificates.issuerRef": {"name": "corporate"}},
        "certificates.issuerRef is set, but certificates.mode is builtin",
    ),
    "names that nobody certifies": (
        {"certificates.mode": "certManager", "certificates.names": ["ports.example.com"]},
        "certificates.names is set, but certificates.mode is certManager",
    ),
    "a life that nobody gives": (
        {"certificates.mode": "certManager", "certificates.lifetime": "24h"},
        "certificates.lifetime is set, but certificates.mode is certManager",
    ),
    "a port of the node that only user 0 may open": (
        {"webhook.hostNetwork": True, "webhook.port": 443},
        "webhook.port is 443, which on the network of a node only user 0 may open",
    ),
    "the kubelet's port": (
        {"webhook.hostNetwork": True, "webhook.port": 10250},
        "webhook.port is 10250, which on every node the kubelet has",
    ),
    "scrapes that alerts do not see": (
        {"alerts.enabled": True, "podMonitor.enabled": True, "podMonitor.interval": "3m"},
        "podMonitor.interval is 3m, and the alerts look at 5 minutes",
    ),
    "no runbooks": ({"alerts.runbooks": ""}, "does not match pattern"),
    "runbooks with an anchor": ({"alerts.runbooks": "https://example.com/runbooks#top"}, "does not match pattern"),
    "a test where no Pod is given ports": (
        {"excludedNamespaces": ["default"]},
        "test.namespace is default, which the webhook leaves alone",
    ),
}


@pytest.mark.parametrize(("values", "said"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused_with_a_sentence(helm: Helm, values: Values, said: str) -> None:
    run = helm.run("template", RELEASE, str(CHART), NEW_ENOUGH, *settings(values))

    assert run.code != 0
    assert said in run.stderr


LONGEST: dict[str, Values] = {
    "a cool-down": {"coolDown": "59m60s"},
    "looks of agents": {"agent.enabled": True, "agent.interval": "60s"},
    "numbers": {"reservedPorts": "1-65535,k3s"},
    "a label of Pods": {"shim.podLabels": {"app.kubernetes.io/component": "webhook"}},
    "a certificate": {"certificates.lifetime": "1h", "certificates.caLifetime": "2h"},
    "a certificate of cert-manager": {
        "certificates.mode": "certManager",
        "certificates.duration": "24h",
        "certificates.renewBefore": "23h",
        "certificates.caDuration": "26h",
        "certificates.caRenewBefore": "25h",
    },
    "scrapes that alerts still see": {"alerts.enabled": True, "podMonitor.enabled": True, "podMonitor.interval": "2m"},
    "scrapes in milliseconds": {"alerts.enabled": True, "podMonitor.enabled": True, "podMonitor.interval": "500ms"},
    "a low port of a Pod's own network": {"webhook.port": 443},
}


@pytest.mark.parametrize("values", LONGEST.values(), ids=LONGEST)
def test_what_the_programs_just_take_is_not_refused(helm: Helm, values: Values) -> None:
    assert helm.rendered(values)


def test_a_shim_that_waits_longer_before_it_stops_has_the_time_for_it(helm: Helm) -> None:
    graces = [
        container["terminationGracePeriodSeconds"]
        for delay in ("10s", "2m")
        for each in helm.rendered({"shim.shutdownDelay": delay})
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "hostport-shim"
        for container in [each["spec"]["template"]["spec"]]
    ]

    assert graces == [60, 170]


def test_a_null_is_as_good_as_a_value_that_is_empty(helm: Helm) -> None:
    """A value that has a default may not be null: the schema says that it is missing."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    names = [f"{part}.{name}" if name else part for part, name in empty(values)]

    assert {"excludedNamespaces", "coolDown", "allocator.pageHosts", "certificates.issuerRef"} <= set(names)
    agents = {"agent.enabled": True}
    assert helm.rendered(dict.fromkeys(names) | agents) == helm.rendered(agents)


def empty(values: Values) -> Iterable[tuple[str, str]]:
    """Where a value is empty by default."""
    for part, value in values.items():
        if not isinstance(value, dict):
            if value in ("", []):
                yield part, ""
        elif not value:
            yield part, ""
        else:
            yield from ((part, name) for name, each in value.items() if each in ("", [], {}))


def notes(helm: Helm, values: Values) -> str:
    return helm("install", RELEASE, str(CHART), "--dry-run=client", *settings(values)).stdout.partition("NOTES:")[2]


def test_the_notes_say_what_is_there_and_how_to_see_that_it_works(helm: Helm) -> None:
    said = notes(helm, {})

    assert "helm test hostport --namespace hostport-system" in said
    assert "kubectl delete mutatingwebhookconfiguration hostport-operator" in said
    assert "WARNING" not in said


def test_the_emergency_command_takes_away_all_that_refuses_a_pod(helm: Helm) -> None:
    made = by_name(helm.rendered({"failurePolicy": "Ignore"}))
    said = notes(helm, {"failurePolicy": "Ignore"})
    gone = "mutatingwebhookconfiguration/hostport-operator validatingadmissionpolicybinding/hostport-ports-given"

    assert f"kubectl delete {gone}" in said
    assert "ValidatingAdmissionPolicyBinding hostport-ports-given" in made
    assert "ValidatingAdmissionPolicyBinding hostport-ports-given" not in by_name(helm.rendered())


WARNINGS: dict[str, tuple[Values, str]] = {
    "one shim": ({"shim.replicas": 1, "podDisruptionBudget.enabled": False}, "shim.replicas is 1"),
    "open and unguarded": (
        {"failurePolicy": "Ignore", "admissionPolicies.enabled": False},
        "failurePolicy is Ignore and admissionPolicies are off",
    ),
    "annotations that can be edited": ({"admissionPolicies.enabled": False}, "can edit the annotations"),
    "its own namespace tested": (
        {"test.namespace": "hostport-system"},
        "no Pod of hostport-system is given host ports",
    ),
}


@pytest.mark.parametrize(("values", "said"), WARNINGS.values(), ids=WARNINGS)
def test_the_notes_warn(helm: Helm, values: Values, said: str) -> None:
    told = " ".join(notes(helm, values).split())

    assert said in told.partition("WARNING: ")[2]


def test_the_notes_name_the_secrets_that_are_yours(helm: Helm) -> None:
    own = {"mode": "existingSecret", "caBundle": CA, "shimSecret": "mine", "allocatorSecret": "mine-too"}

    assert "nobody renews the Secrets mine and mine-too but you" in notes(helm, {"certificates": own})


ON_THE_NODES: dict[str, tuple[Values, str]] = {
    "agents": ({"agent.enabled": True}, "An agent runs on every node"),
    "shims": ({"webhook.hostNetwork": True}, "Shims run on the network of their nodes"),
}


@pytest.mark.parametrize(("values", "said"), ON_THE_NODES.values(), ids=ON_THE_NODES)
def test_the_notes_say_what_the_namespace_has_to_allow(helm: Helm, values: Values, said: str) -> None:
    told = " ".join(notes(helm, values).split())

    assert said in told
    assert f"kubectl label namespace {NAMESPACE} --overwrite pod-security.kubernetes.io/enforce=privileged" in told
    assert "enforce=privileged" not in notes(helm, {})


def test_the_chart_lints_and_needs_a_cluster_that_is_new_enough(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART)).stdout
    old = helm.run("template", RELEASE, str(CHART), "--kube-version=v1.33.9")
    assert "chart requires kubeVersion: >=1.34.0-0" in old.stderr


def test_the_chart_can_be_packed_for_a_registry(helm: Helm, tmp_path: Path) -> None:
    helm("package", str(CHART), f"--destination={tmp_path}")
    (packed,) = tmp_path.iterdir()

    with tarfile.open(packed) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
    assert {"Chart.yaml", "README.md", "values.schema.json", "files/dry_run.py", "templates/webhook.yaml"} <= names


def test_the_chart_tells_artifact_hub_what_is_new() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    changes = yaml.safe_load(chart["annotations"]["artifacthub.io/changes"])

    assert {change["kind"] for change in changes} <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert all(change["description"] for change in changes)
