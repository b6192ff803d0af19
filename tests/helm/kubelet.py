"""Runs what a Pod of ours says, on this machine: its arguments, its environment, its Secrets, its ServiceAccount's rights.

Where Pods have addresses of their own, programs here share loopback: ports are others, and paths lead to a folder. All
else is what the cluster holds, so that a flag or a right that is missing in a manifest is missing here.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.api import MERGE_PATCH, Https, Kubectl
from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane
from e2e.processes import Process, free_ports, wait_for

from helm.network import ServiceNetwork

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
LED = Path(__file__).with_name("led.py")
LISTEN = re.compile(r"0\.0\.0\.0:(\d+)")

Pod = Mapping[str, Any]


class Hosted:
    """One Pod's program. `ports` says where each of its named ports is here."""

    def __init__(self, plane: ControlPlane, network: ServiceNetwork, pod: Pod, folder: Path) -> None:
        self._pod, self._folder = pod, folder
        self._kubectl = plane.kubectl.within(pod["metadata"]["namespace"])
        container = pod["spec"]["containers"][0]  # the twin is the same once more
        numbers = dict(zip((each["containerPort"] for each in container["ports"]), free_ports(8), strict=False))
        self.ports = {each["name"]: numbers[each["containerPort"]] for each in container["ports"]}
        paths = {mount["mountPath"]: self._volume(mount["name"]) for mount in container["volumeMounts"]}
        arguments = [_local(argument, numbers, paths) for argument in container["args"]]
        module = container["name"]
        self.process = Process(
            pod["metadata"]["name"],
            [sys.executable, str(LED), module, *arguments, *self._credentials(plane)],
            log=plane.logs / f"{pod['metadata']['name']}.log",
            environ=self._environ(container, network),
        )

    def wait_ready(self) -> None:
        http = Https(f"http://127.0.0.1:{self.ports['http']}")
        # A new allocator that finds the Lease of another, and not its journal, waits 36 s.
        self.process.wait_until("ready", lambda: http.is_ok("/readyz"), seconds=75)

    def _environ(self, container: Mapping[str, Any], network: ServiceNetwork) -> dict[str, str]:
        meta = self._pod["metadata"]
        fields = {"metadata.name": meta["name"], "metadata.uid": meta["uid"], "metadata.namespace": meta["namespace"]}
        environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        for each in container.get("env", []):
            source = each.get("valueFrom")
            environ[each["name"]] = fields[source["fieldRef"]["fieldPath"]] if source else each["value"]
        return environ | {"PYTHONPATH": str(CHECKOUT), "grpc_proxy": network.url}

    def _credentials(self, plane: ControlPlane) -> list[str]:
        """A Pod that is given a token talks to the API server as its ServiceAccount, and as nobody else."""
        if not any("projected" in volume for volume in self._pod["spec"]["volumes"]):
            return []
        file = self._folder / f"{self._pod['metadata']['name']}.kubeconfig"
        file.write_text(json.dumps(as_account(plane, token_of(self._kubectl, self._pod))), encoding="utf-8")
        return [f"--kubeconfig={file}"]

    def _volume(self, name: str) -> Path:
        """A Secret is waited for, as a kubelet does."""
        folder = self._folder / str(self._pod["metadata"]["name"]) / name
        folder.mkdir(parents=True)
        (volume,) = (each for each in self._pod["spec"]["volumes"] if each["name"] == name)
        if secret := volume.get("secret"):
            kept = ("get", "secret", secret["secretName"], "-o", "json")
            run = wait_for("the Secret", lambda: self._kubectl.run(*kept), lambda run: run.code == 0)
            for key, value in run.json["data"].items():
                (folder / key).write_bytes(base64.b64decode(value))
        return folder


def run_once(plane: ControlPlane, pod: Pod, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a Pod's command to its end, and tells the API server how it ended."""
    meta, (container,) = pod["metadata"], pod["spec"]["containers"]
    folder = folder / str(meta["uid"])
    folder.mkdir()
    (folder / "token").write_text(token_of(plane.kubectl.within(meta["namespace"]), pod), encoding="utf-8")
    (folder / "ca.crt").write_bytes(plane.pki.ca.read_bytes())
    server = urlsplit(plane.api.base)
    environ = {each["name"]: each["value"].replace(ACCOUNT, str(folder)) for each in container["env"]}
    environ |= {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
    done = subprocess.run(
        [sys.executable, *container["command"][1:]],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
    phase = "Succeeded" if done.returncode == 0 else "Failed"
    plane.api.ask("PATCH", path, {"status": {"phase": phase}}, content_type=MERGE_PATCH)
    return done


def token_of(kubectl: Kubectl, pod: Pod) -> str:
    return kubectl("create", "token", pod["spec"]["serviceAccountName"]).stdout.strip()


def as_account(plane: ControlPlane, token: str) -> dict[str, Any]:
    """A kubeconfig with a token and nothing else."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "e2e", "cluster": {"server": plane.api.base, "certificate-authority": str(plane.pki.ca)}}
        ],
        "users": [{"name": "account", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "account"}}],
        "current-context": "e2e",
    }


def _local(argument: str, numbers: Mapping[int, int], paths: Mapping[str, Path]) -> str:
    argument = LISTEN.sub(lambda match: f"127.0.0.1:{numbers[int(match[1])]}", argument)
    for inside, folder in paths.items():
        argument = argument.replace(inside, str(folder))
    return argument
