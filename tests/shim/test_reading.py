"""What `render` says of a whole file: Services, kinds that are not known, annotations in wrong places, and the sum."""

from __future__ import annotations

import io
import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from hostport_cli.__main__ import cli
from shim.pods import FieldError
from shim.reading import read_document

ASKS = 'annotations: {hostport.io/enabled: "true", hostport.io/policy: Dynamic}'
DEPLOYMENT = f"""
    apiVersion: apps/v1
    kind: Deployment
    metadata: {{name: web}}
    spec:
      selector: {{matchLabels: {{app: web}}}}
      template:
        metadata: {{labels: {{app: web}}, {ASKS}}}
        spec: {{containers: [{{name: web, image: x, args: [$(HOSTPORT_HTTP)], ports: [{{name: http, containerPort: 8080}}]}}]}}
"""
FLEET = """
    apiVersion: games.example/v1
    kind: Fleet
    metadata: {name: arena}
    spec: {template: {spec: {template: {spec: {containers: [{name: game, image: x, ports: [{name: udp, containerPort: 7654}]}]}}}}}
"""
GROUPS = f"""
    apiVersion: ray.example/v1
    kind: Cluster
    metadata: {{name: ray}}
    spec:
      head: {{template: {{metadata: {{{ASKS}}}, spec: {{containers: [{{name: a, image: x, ports: [{{containerPort: 6379}}]}}]}}}}}}
      groups:
      - template: {{spec: {{containers: [{{name: b, image: x}}]}}}}
      - template: {{spec: {{containers: [{{name: c, image: x}}]}}}}
"""


def service(name: str, **port: Any) -> str:
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80} | port]}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})


def rendered(tmp_path: Path, *documents: str, options: tuple[str, ...] = ()) -> Result:
    path = tmp_path / "all.yaml"
    path.write_text("\n---\n".join(dedent(each) for each in documents))
    return CliRunner().invoke(cli, ["render", "--offline", "-f", str(path), *options], standalone_mode=False)


def told(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if "PORT_MOVED" not in line]


def test_a_sum_is_the_last_line(tmp_path: Path) -> None:
    result = rendered(tmp_path, DEPLOYMENT, service("web", targetPort="http"))

    assert (result.return_value, told(result)) == (0, ["1 Pod, 1 port moved, 0 Services to change"])


def test_a_port_of_a_workload_is_one_however_many_replicas_there_are(tmp_path: Path) -> None:
    result = rendered(tmp_path, DEPLOYMENT.replace("selector:", "replicas: 3\n      selector:"))

    assert told(result) == ["3 Pods, 1 port moved, 0 Services to change"]


@pytest.mark.parametrize(
    ("port", "sentence"),
    [
        pytest.param(
            {"targetPort": 8080}, "sends port 80/TCP to 8080, which moved to 7000: set targetPort: http", id="numeric"
        ),
        pytest.param(
            {"port": 8080}, "sends port 8080/TCP to 8080, which moved to 7000: set targetPort: http", id="defaulted"
        ),
        pytest.param({"targetPort": 8080, "protocol": "UDP"}, "", id="another protocol"),
        pytest.param({"targetPort": 9090}, "", id="another number"),
        pytest.param({"targetPort": "http"}, "", id="by name"),
    ],
)
def test_a_service_that_would_lead_nowhere_is_told(tmp_path: Path, port: dict[str, Any], sentence: str) -> None:
    result = rendered(tmp_path, service("front", **port), DEPLOYMENT)

    lost = [f"warning SERVICE_OLD_PORT: Service front {sentence}"] if sentence else []
    assert told(result) == [*lost, f"1 Pod, 1 port moved, {len(lost)} Service{'' if lost else 's'} to change"]
    assert result.return_value == 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("metadata: {name: web}", "metadata: {name: web, namespace: other}"), id="another namespace"),
        pytest.param(("labels: {app: web}", "labels: {app: db}"), id="other labels"),
        pytest.param(
            ("hostport.io/policy: Dynamic", "hostport.io/network: Pod, hostport.io/policy: Dynamic"), id="nothing moves"
        ),
    ],
)
def test_a_service_of_other_pods_is_left_alone(tmp_path: Path, change: tuple[str, str]) -> None:
    result = rendered(tmp_path, service("front", targetPort=8080), DEPLOYMENT.replace(*change))

    assert "SERVICE_OLD_PORT" not in result.stderr


def test_a_service_that_is_another_name_sends_to_no_pod(tmp_path: Path) -> None:
    alias = service("front", targetPort=8080).replace("spec:", "spec:\n  type: ExternalName\n  externalName: a.example")

    assert "SERVICE_OLD_PORT" not in rendered(tmp_path, alias, DEPLOYMENT).stderr


def test_what_a_typed_list_has_is_of_that_kind(tmp_path: Path) -> None:
    asking = "annotations: {hostport.io/enabled: 'true', hostport.io/policy: Dynamic}"
    pods = f"""
      kind: PodList
      items: [{{metadata: {{name: a, {asking}}}, spec: {{containers: [{{name: a, ports: [{{containerPort: 8080}}]}}]}}}}]
    """

    result = rendered(tmp_path, pods)

    assert (result.return_value, told(result)) == (0, ["1 Pod, 1 port moved, 0 Services to change"])


def test_objects_without_a_namespace_are_of_the_one_that_is_named(tmp_path: Path) -> None:
    result = rendered(tmp_path, service("front", targetPort=8080), DEPLOYMENT, options=("-n", "games"))

    assert yaml.safe_load(result.stdout)["metadata"]["namespace"] == "games"
    assert "SERVICE_OLD_PORT: Service front" in result.stderr


def test_a_kind_whose_pods_are_not_known_is_told_with_the_remedy(tmp_path: Path) -> None:
    result = rendered(tmp_path, FLEET)

    assert (result.return_value, result.stdout) == (1, "")
    assert told(result) == [
        "Fleet arena: Fleet is not a kind whose Pods are known: name its templates with --pod-template spec.template.spec.template",
        "0 Pods: nothing that was read is known to make any",
    ]


NAMESAKES = {
    "a Job of tasks": (
        f"""
        apiVersion: batch.example/v1
        kind: Job
        metadata: {{name: train}}
        spec: {{tasks: [{{template: {{metadata: {{{ASKS}}}, spec: {{containers: [{{name: a, image: x}}]}}}}}}]}}
        """,
        "Job train: Job is not a kind whose Pods are known: name its templates with --pod-template spec.tasks[].template",
    ),
    "a Service that makes Pods": (
        f"""
        apiVersion: serving.example/v1
        kind: Service
        metadata: {{name: hello}}
        spec: {{template: {{metadata: {{{ASKS}}}, spec: {{containers: [{{name: a, image: x}}]}}}}}}
        """,
        "Service hello: Service is not a kind whose Pods are known: name its templates with --pod-template spec.template",
    ),
}


@pytest.mark.parametrize(("manifest", "sentence"), NAMESAKES.values(), ids=NAMESAKES)
def test_a_kind_of_another_api_is_none_that_is_known(tmp_path: Path, manifest: str, sentence: str) -> None:
    result = rendered(tmp_path, manifest)

    assert told(result) == [sentence, "0 Pods: nothing that was read is known to make any"]
    assert result.return_value == 1


def test_a_kind_of_another_api_with_its_template_where_ours_has_it_is_read_like_ours(tmp_path: Path) -> None:
    result = rendered(tmp_path, DEPLOYMENT.replace("apps/v1", "apps.example/v1"))

    assert told(result) == ["1 Pod, 1 port moved, 0 Services to change"]


IN_VAIN = {
    "a misspelt annotation": (
        "hostport.io/enable",
        "Deployment web: annotation hostport.io/enable is unknown and does nothing; did you mean hostport.io/enabled?",
    ),
    "settings alone": (
        "hostport.io/min-port",
        'Deployment web: annotation hostport.io/min-port does nothing without hostport.io/enabled: "true"',
    ),
    "an unknown one alone": (
        "hostport.io/x",
        'Deployment web: annotation hostport.io/x does nothing without hostport.io/enabled: "true"',
    ),
}


@pytest.mark.parametrize(("name", "sentence"), IN_VAIN.values(), ids=IN_VAIN)
def test_who_means_to_ask_and_does_not_is_told(tmp_path: Path, name: str, sentence: str) -> None:
    result = rendered(tmp_path, DEPLOYMENT.replace(ASKS, f'annotations: {{{name}: "true"}}'))

    assert sentence in told(result)
    assert result.return_value == 1


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param('{hostport.io/enabled: "false", hostport.io/min-port: "9000"}', id="who says no"),
        pytest.param('{hostport.io/allocation-id: "a"}', id="what is left of an admission"),
    ],
)
def test_who_does_not_mean_to_ask_is_told_nothing(tmp_path: Path, annotations: str) -> None:
    assert rendered(tmp_path, DEPLOYMENT.replace(ASKS, f"annotations: {annotations}")).return_value == 0


def test_its_templates_can_be_named(tmp_path: Path) -> None:
    some = rendered(tmp_path, GROUPS, options=("--pod-template", "spec.head.template"))
    every = rendered(
        tmp_path, GROUPS, options=("--pod-template", "spec.head.template", "--pod-template", ".spec.groups[*].template")
    )

    assert told(some)[0].endswith("name its templates with --pod-template spec.groups[].template")
    assert (some.return_value, every.return_value) == (1, 0)
    assert [pod["spec"]["containers"][0]["name"] for pod in yaml.safe_load_all(every.stdout)] == ["a", "b", "c"]
    assert every.stderr.endswith("1 Pod, 1 port moved, 0 Services to change\n")


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        pytest.param(
            DEPLOYMENT.replace("metadata: {name: web}", f"metadata: {{name: web, {ASKS}}}"),
            "Deployment web: hostport.io/enabled stands in metadata.annotations, where nobody reads it: it belongs into"
            " spec.template.metadata.annotations",
            id="of the workload",
        ),
        pytest.param(
            DEPLOYMENT.replace("labels: {app: web}", 'labels: {hostport.io/enabled: "true"}'),
            "Deployment web: hostport.io/enabled stands in spec.template.metadata.labels, where nobody reads it: it belongs"
            " into spec.template.metadata.annotations",
            id="as a label",
        ),
        pytest.param(
            FLEET.replace("metadata: {name: arena}", f"metadata: {{name: arena, {ASKS}}}"),
            "Fleet arena: hostport.io/enabled stands in metadata.annotations, where nobody reads it: it belongs into"
            " spec.template.spec.template.metadata.annotations",
            id="of an unknown kind",
        ),
        pytest.param(
            f"kind: Service\nmetadata: {{name: web, {ASKS}}}",
            "Service web: hostport.io/enabled stands in metadata.annotations, where nobody reads it: a Service makes no Pods",
            id="of a Service",
        ),
    ],
)
def test_an_annotation_that_nobody_reads_is_told(tmp_path: Path, manifest: str, sentence: str) -> None:
    result = rendered(tmp_path, manifest)

    assert sentence in told(result)
    assert result.return_value == 1


def test_nothing_that_asks_is_no_mistake_and_is_told(tmp_path: Path) -> None:
    result = rendered(tmp_path, "kind: ConfigMap\nmetadata: {name: c}", DEPLOYMENT.replace(", " + ASKS, ""))

    assert (result.return_value, told(result)) == (
        0,
        ["1 Pod, none of which asks for ports: hostport.io/enabled is not in its annotations"],
    )


def test_nothing_that_makes_pods_is_no_mistake_and_is_told(tmp_path: Path) -> None:
    result = rendered(tmp_path, service("front", targetPort=8080))

    assert (result.return_value, told(result)) == (0, ["0 Pods: nothing that was read is known to make any"])


def test_warnings_fail_where_that_is_asked_for(tmp_path: Path) -> None:
    manifests = (service("front", targetPort=8080), DEPLOYMENT)

    assert [rendered(tmp_path, *manifests, options=more).return_value for more in ((), ("--strict",))] == [0, 1]


def test_json_has_findings_and_the_sum(tmp_path: Path) -> None:
    result = rendered(tmp_path, service("front", targetPort=8080), DEPLOYMENT, options=("-o", "json"))

    found = json.loads(result.stdout)
    assert (len(found["items"]), found["summary"]) == (1, "1 Pod, 1 port moved, 1 Service to change")
    (finding,) = found["findings"]
    assert finding["kind"] == "warning"
    assert finding["message"].startswith("SERVICE_OLD_PORT: Service front sends")


def test_a_diff_shows_what_changes_and_nothing_else(tmp_path: Path) -> None:
    result = rendered(tmp_path, DEPLOYMENT, options=("-o", "diff"))

    lines = io.StringIO(result.stdout).read().splitlines()
    assert lines[:2] == ["--- default/web-* (template)", "+++ default/web-* (admitted)"]
    assert "-    - containerPort: 8080" not in lines  # the port keeps its name and its place
    assert "-      containerPort: 8080" in lines
    assert "+      containerPort: 7000" in lines


def test_a_template_that_is_none_is_told() -> None:
    with pytest.raises(FieldError, match=r"spec.replicas must be a Pod template, not 3"):
        read_document({"kind": "X", "spec": {"replicas": 3}}, namespace="default", templates=["spec.replicas"])


def test_lists_are_read_through() -> None:
    one = yaml.safe_load(dedent(DEPLOYMENT))
    found = read_document({"kind": "List", "items": [one, one]}, namespace="default", templates=[])

    assert len(found.pods) == 2
