"""What README and pages tell people to type and needs a kubelet is typed here, as it stands there, on real nodes.

The other commands are typed where less is enough: tests/e2e, tests/helm and tests/test_docs.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.manifests import hostport, pod, port, workload
from e2e.processes import wait_for

from e2e_cluster.conftest import agents_of
from e2e_cluster.driver import Access, Driver
from e2e_cluster.installed import Installed
from testing.documented import DocumentedCommand, typed_by

HERE = [
    command for command in typed_by("tests/e2e_cluster") if not command.text.startswith("helm test")
]  # test_helm.py
OF_AGENTS = [command for command in HERE if "hostport-agent" in command.text]
TYPED = [command for command in HERE if command not in OF_AGENTS]
ENDLESS = "port-forward"
"""What runs until somebody ends it: it is given some seconds."""
MEANT = {"POD": "documented-0", "NAME": "documented-0", "PORT": "7000", "NAMESPACE": "default"}


@pytest.fixture(scope="module")
def terminal(access: Access, installed: Installed, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a reader who has kubectl, hostport and a kubeconfig, and a Pod with ports."""
    programs = folder / "reader"
    programs.mkdir()
    (programs / "kubectl").symlink_to(access.kubectl.program)
    kubectl = access.kubectl.within("default")
    kubectl("create", "-f", "-", stdin=json.dumps(pod(MEANT["POD"], hostport(policy="Dynamic"), port(80, "web"))))
    kubectl.apply(pod("web-0", hostport(policy="Dynamic"), port(80, "web")))
    kubectl.apply(workload("Deployment", "web", hostport(policy="Dynamic"), port(80, "web")))
    wait_for("the Pod of the Deployment", lambda: kubectl.pods("app=web"), bool)
    yield os.environ | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(access.kubectl.kubeconfig),
        "HOME": str(programs),
    }
    kubectl("delete", "deployment", "web")
    kubectl("delete", "pod", MEANT["POD"], "web-0", "--now")


@pytest.mark.parametrize("command", TYPED, ids=lambda command: f"{command.page} {' '.join(command.text.split()[:5])}")
def test_a_documented_command_works_as_it_stands(
    access: Access, terminal: dict[str, str], command: DocumentedCommand
) -> None:
    done = typed(access, terminal, command)

    assert done.returncode == 0, f"{command.page}: {command.text}\n{done.stdout}{done.stderr}"
    assert done.stdout or done.stderr, "an empty list is told as a remark"


@pytest.fixture
def reserving(driver: Driver, clone: Path, installed: Installed) -> Iterator[None]:
    """With an agent on every node that keeps given numbers out of outgoing connections; afterwards as it was."""
    with agents_of(driver, clone, installed, "agent-reserve"):
        yield


@pytest.mark.parametrize(
    "command", OF_AGENTS, ids=lambda command: f"{command.page} {' '.join(command.text.split()[:5])}"
)
def test_a_documented_command_about_agents_works_as_it_stands(
    access: Access, terminal: dict[str, str], reserving: None, command: DocumentedCommand
) -> None:
    done = typed(access, terminal, command)

    assert done.returncode == 0, f"{command.page}: {command.text}\n{done.stdout}{done.stderr}"


def typed(access: Access, terminal: dict[str, str], command: DocumentedCommand) -> subprocess.CompletedProcess[str]:
    text = command.typed
    for word, meant in MEANT.items():
        text = re.sub(rf"\b{word}\b", meant, text)
    text = re.sub(r"\bNODE\b", next(iter(access.nodes)), text)
    if ENDLESS in text:
        text = f"timeout -s INT 5 {text} || [ $? = 124 ]"
    return subprocess.run(["bash", "-ec", text], env=terminal, capture_output=True, text=True, timeout=120, check=False)


def test_there_are_documented_commands() -> None:
    assert {each.text.split()[0] for each in TYPED} == {"kubectl", "hostport"}
    assert OF_AGENTS
