"""The API server as the tests speak to it: JSON over HTTPS, and kubectl."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Https:
    """Requests to one server. Never through a proxy: everything here is on loopback."""

    def __init__(self, base: str, tls: ssl.SSLContext | None = None) -> None:
        self.base = base
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=tls))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 10,
    ) -> Answer:
        """One request; any HTTP status is an answer.

        Raises:
            OSError: nobody answered.

        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": accept}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                return Answer(response.status, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read())

    def is_ok(self, path: str) -> bool:
        """Whether the path answers 200 right now."""
        try:
            return self.ask("GET", path, timeout=2).status == 200
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Run:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class KubectlFailed(AssertionError):  # noqa: N818 - reads as what it says
    """kubectl was expected to succeed and did not."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl with admin rights, in one namespace if given."""

    program: str
    kubeconfig: Path
    namespace: str | None = None
    patience: float = 60

    def within(self, namespace: str) -> Kubectl:
        return replace(self, namespace=namespace)

    def run(self, *arguments: str, stdin: str = "") -> Run:
        """Runs it and reports whatever happens."""
        place = [] if self.namespace is None else ["--namespace", self.namespace]
        done = subprocess.run(
            [self.program, "--kubeconfig", str(self.kubeconfig), *place, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=self.patience,
            check=False,
            env={"HOME": str(self.kubeconfig.parent), "PATH": "/usr/bin:/bin"},
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def __call__(self, *arguments: str, stdin: str = "") -> Run:
        """Runs it.

        Raises:
            KubectlFailed: it did not succeed.

        """
        run = self.run(*arguments, stdin=stdin)
        if run.code != 0:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: exit {run.code}\n{run.stdout}{run.stderr}")
        return run

    def get(self, *arguments: str) -> Any:
        return self("get", *arguments, "-o", "json").json

    def apply(self, *manifests: Mapping[str, Any], options: Sequence[str] = ()) -> Run:
        return self("apply", "-f", "-", *options, stdin=as_list(*manifests))

    def try_apply(self, *manifests: Mapping[str, Any], options: Sequence[str] = ()) -> Run:
        return self.run("apply", "-f", "-", *options, stdin=as_list(*manifests))

    def pods(self, selector: str = "") -> list[dict[str, Any]]:
        """The namespace's Pods in the order of their names, without those that are being deleted."""
        pods: list[dict[str, Any]] = self.get("pods", *(["-l", selector] if selector else []))["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def as_list(*manifests: Mapping[str, Any]) -> str:
    if len(manifests) == 1:
        return json.dumps(manifests[0])
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
