"""Helm, and the chart that the tests are about."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from e2e.api import Run
from e2e.binaries import CHECKOUT

CHART = CHECKOUT / "deploy" / "chart" / "hostport-operator"
NAMESPACE = "hostport-system"
RELEASE = "hostport"

NEW_ENOUGH = "--kube-version=v1.36.0"
"""What a rendering without a cluster takes itself to be for."""

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Helm:
    """The program, with a folder of its own for what it keeps, and a cluster if given."""

    program: str
    home: Path
    kubeconfig: Path | None = None

    def run(self, *arguments: str) -> Run:
        """Runs it in the namespace of the release and reports whatever happens."""
        environ = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        if self.kubeconfig:
            environ["KUBECONFIG"] = str(self.kubeconfig)
        done = subprocess.run(
            [self.program, *arguments, "--namespace", NAMESPACE],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environ,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def __call__(self, *arguments: str) -> Run:
        """Runs it and expects success."""
        run = self.run(*arguments)
        assert run.code == 0, f"helm {' '.join(arguments)}: exit {run.code}\n{run.stdout}{run.stderr}"
        return run

    @property
    def major(self) -> str:
        """`v3` or `v4`."""
        return self("version", "--template={{.Version}}").stdout.partition(".")[0]

    def rendered(self, values: Values | None = None) -> list[dict[str, Any]]:
        """The objects that an installation would make, without the hooks."""
        run = self("template", RELEASE, str(CHART), "--no-hooks", NEW_ENOUGH, *settings(values or {}))
        return [each for each in yaml.safe_load_all(run.stdout) if each]


def settings(values: Values) -> Sequence[str]:
    """As flags. A dot parts the names of a value: `{"shim.replicas": 3}`."""
    return [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]
