"""From a manifest to the Pods that the API server would show to a webhook. Pure.

Only what matters to us is filled in: names, the index labels of controllers, ownership, and the defaults that the API
server sets before admission. Seen in recorded reviews: a StatefulSet's Pod has a name and a pod-index label, a
Deployment's, DaemonSet's or Job's has a generateName alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from shim.allocation_request import COMPLETION_INDEX, POD_INDEX
from shim.outcomes import API_VERSION, KIND
from shim.pods import FieldError, Json, as_object, integer, json_list, json_object, text

POD_KIND = {"group": "", "version": "v1", "kind": "Pod"}
POD_RESOURCE = {"group": "", "version": "v1", "resource": "pods"}
MOST_PODS = 10_000
"""Of one workload: a slip of the finger shall not fill the memory."""


def admission_review(pod: Json, uid: str, *, dry_run: bool) -> dict[str, Any]:
    """The review that the API server sends when somebody creates the Pod."""
    metadata = json_object(pod, "metadata", "")
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "request": {
            "uid": uid,
            "kind": POD_KIND,
            "resource": POD_RESOURCE,
            "requestKind": POD_KIND,
            "requestResource": POD_RESOURCE,
            "name": metadata.get("name") or "",
            "namespace": metadata.get("namespace") or "default",
            "operation": "CREATE",
            "userInfo": {},
            "object": pod,
            "oldObject": None,
            "dryRun": dry_run,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    }


def pods_of(manifest: Json, namespace: str = "default") -> Iterator[dict[str, Any]]:
    """The Pods of one object, in the order of their creation; none for kinds that make none. Lists: see `reading`.

    `namespace` is that of objects that do not say.

    Raises:
        FieldError: the manifest has an impossible type.

    """
    kind, metadata, spec = text(manifest, "kind", ""), json_object(manifest, "metadata", ""), _spec(manifest)
    match kind:
        case "Pod":
            yield _defaulted(dict(deepcopy(manifest)), text(metadata, "namespace", "metadata") or namespace)
        case "CronJob":
            job = json_object(spec, "jobTemplate", "spec")
            yield from pods_of({"kind": "Job", "spec": job.get("spec"), "metadata": metadata}, namespace)
        case "StatefulSet":
            start = integer(json_object(spec, "ordinals", "spec"), "start", "spec.ordinals")
            for index in range(start, start + _replica_count(spec, "replicas")):
                yield _made(manifest, _stateful(text(metadata, "name", "metadata"), index), namespace)
        case "Deployment" | "ReplicaSet" | "ReplicationController":
            for _ in range(_replica_count(spec, "replicas")):
                yield _made(manifest, {}, namespace)
        case "DaemonSet":
            yield _made(manifest, {}, namespace)
        case "Job":
            yield from _job_pods(manifest, spec, namespace)


def _spec(manifest: Json) -> Json:
    return json_object(manifest, "spec", "") if isinstance(manifest.get("spec"), dict) else {}


def _replica_count(spec: Json, key: str) -> int:
    count = 1 if spec.get(key) is None else integer(spec, key, "spec")
    if not 0 <= count <= MOST_PODS:
        raise FieldError(f"spec.{key}", f"in 0..{MOST_PODS}", count)
    return count


def _stateful(name: str, index: int) -> Json:
    labels = {POD_INDEX: str(index), "statefulset.kubernetes.io/pod-name": f"{name}-{index}"}
    return {"name": f"{name}-{index}", "labels": labels}


def _job_pods(manifest: Json, spec: Json, namespace: str) -> Iterator[dict[str, Any]]:
    name = text(json_object(manifest, "metadata", ""), "name", "metadata")
    if spec.get("completionMode") != "Indexed":
        workers = _replica_count(spec, "parallelism")  # without completions, each of them works until a queue is empty
        for _ in range(
            workers if spec.get("completions") is None else min(workers, _replica_count(spec, "completions"))
        ):
            yield _made(manifest, {}, namespace)
        return
    for index in range(_replica_count(spec, "completions")):
        mark = {COMPLETION_INDEX: str(index)}
        yield _made(manifest, {"generateName": f"{name}-{index}-", "labels": mark, "annotations": mark}, namespace)


def _made(manifest: Json, more: Json, namespace: str) -> dict[str, Any]:
    """A Pod of a workload's template; `more` is what its controller adds to the metadata."""
    template = as_object(json_object(manifest, "spec", "").get("template"), "spec.template")
    return template_pod(manifest, template, "spec.template", namespace, more)


def template_pod(
    manifest: Json, found: Json, path: str, namespace: str = "default", more: Json | None = None
) -> dict[str, Any]:
    """A Pod of a template that stands at a path of an object; `more` is what is added to its metadata.

    Raises:
        FieldError: the template has an impossible type.

    """
    owner, more = json_object(manifest, "metadata", ""), more or {}
    name, kind = text(owner, "name", "metadata"), text(manifest, "kind", "")
    template = deepcopy(found)
    metadata = dict(json_object(template, "metadata", path))
    for key in ("labels", "annotations"):
        metadata[key] = dict(json_object(metadata, key, f"{path}.metadata")) | more.get(key, {})
    metadata |= {"generateName": f"{name}-"} | {key: more[key] for key in ("name", "generateName") if key in more}
    metadata["ownerReferences"] = [{"kind": kind, "name": name, "uid": f"uid-of-{kind}-{name}", "controller": True}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec")}
    return _defaulted(pod, text(owner, "namespace", "metadata") or namespace)


def _defaulted(pod: dict[str, Any], namespace: str) -> dict[str, Any]:
    """What the API server sets before any webhook runs."""
    metadata, spec = dict(json_object(pod, "metadata", "")), dict(json_object(pod, "spec", ""))
    metadata["namespace"] = namespace
    spec = {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst"} | spec
    for key in ("containers", "initContainers"):
        for container in json_list(spec, key, "spec"):
            for port in json_list(as_object(container, f"spec.{key}[]"), "ports", f"spec.{key}[]"):
                _default_port(port, is_on_host=spec.get("hostNetwork") is True)
    return pod | {"metadata": metadata, "spec": spec}


def _default_port(port: Any, *, is_on_host: bool) -> None:
    if isinstance(port, dict):
        port.setdefault("protocol", "TCP")
        if is_on_host and not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort")
