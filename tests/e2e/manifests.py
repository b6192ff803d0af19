"""Manifests as short as the cases allow, and what a stored Pod says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane

Pod = dict[str, Any]

ENABLED = "hostport.io/enabled"


def rendered(plane: ControlPlane, overlay: str) -> list[dict[str, Any]]:
    """The objects that an overlay installs."""
    folder = CHECKOUT / "deploy" / "overlays" / overlay
    done = subprocess.run([plane.binaries["kubectl"], "kustomize", folder], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def hostport(enabled: str = "true", **settings: str | int) -> dict[str, str]:
    """The annotations that ask for host ports: `hostport(min_port=10000)`."""
    return {ENABLED: enabled} | {f"hostport.io/{key.replace('_', '-')}": str(value) for key, value in settings.items()}


def port(number: int, name: str | None = None, protocol: str = "TCP", **more: Any) -> dict[str, Any]:
    return {"containerPort": number, "protocol": protocol} | ({"name": name} if name else {}) | more


def container(name: str, *ports: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "image": "x", "ports": list(ports)}


def pod(name: str, annotations: Mapping[str, str], *ports: Mapping[str, Any], **spec: Any) -> Pod:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [container("main", *ports)]} | spec,
    }


def workload(
    kind: str,
    name: str,
    annotations: Mapping[str, str],
    *ports: Mapping[str, Any],
    pod_spec: Mapping[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A StatefulSet, Deployment, DaemonSet or Job whose Pods carry the label `app`."""
    template = {
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {"containers": [container("main", *ports)], **(pod_spec or {})},
    }
    selector = {} if kind == "Job" else {"selector": {"matchLabels": {"app": name}}}
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"template": template, **selector, **spec},
    }


def numbers(pod: Pod) -> list[int]:
    """The hostPorts of a stored Pod, in their order."""
    return [port["hostPort"] for each in pod["spec"]["containers"] for port in each.get("ports", [])]


def numbers_by_name(pods: Sequence[Pod]) -> dict[str, list[int]]:
    return {pod["metadata"]["name"]: numbers(pod) for pod in pods}


def annotation(pod: Pod, key: str) -> str:
    value: str = pod["metadata"]["annotations"][f"hostport.io/{key}"]
    return value


def allocations(pod: Pod) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(annotation(pod, "allocations"))
    return listed


def is_untouched(pod: Pod) -> bool:
    """Whether nothing of ours is in it."""
    annotations = pod["metadata"].get("annotations", {})
    return "hostNetwork" not in pod["spec"] and not any("allocat" in key for key in annotations)
