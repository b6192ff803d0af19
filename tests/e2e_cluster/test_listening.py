"""A Pod whose program ignores its number is told so on real nodes, by what the agents there see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from e2e.api import Kubectl
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_for, wait_until

from e2e_cluster.driver import Access
from e2e_cluster.installed import Installed, is_ready
from e2e_cluster.test_cli import hostport as command_line

pytestmark = pytest.mark.usefixtures("agents")

RANGE: dict[str, Any] = {"policy": "Dynamic", "min_port": 22100, "max_port": 22199}
SERVES = "exec httpd -f -h /tmp -p "
NAMES = {"deaf": SERVES + "8080", "heard": SERVES + "$HOSTPORT_WEB", "shy": SERVES + "127.0.0.1:$HOSTPORT_WEB"}


@pytest.fixture
def kubectl(access: Access, installed: Installed) -> Iterator[Kubectl]:
    """A place of its own, where the agents of all nodes report."""
    wait_until("the agents to report", lambda: "REPORTED" in command_line(access, "node").stdout, seconds=60)
    yield access.kubectl.within("default")
    access.kubectl.within("default")("delete", "pods", *NAMES, "--grace-period=1", "--ignore-not-found")


def told(kubectl: Kubectl) -> dict[str, str]:
    """The notes of the Events NotListening, by Pod. Of Pods of other tests there may be some as well."""
    events = kubectl.get("events.events.k8s.io")["items"]
    notes = {each["regarding"]["name"]: each["note"] for each in events if each["reason"] == "NotListening"}
    return {name: note for name, note in notes.items() if name in NAMES}


def test_a_pod_whose_program_ignores_its_number_is_told_the_cause(access: Access, kubectl: Kubectl) -> None:
    for name, script in NAMES.items():
        made = pod(name, hostport(**RANGE), port(8080, "web"))
        made["spec"]["containers"][0] |= {"image": "busybox:1.37", "command": ["sh", "-c"], "args": [script]}
        kubectl.apply(made)
    wait_until("them to be Ready", lambda: sum(map(is_ready, kubectl.pods())) >= len(NAMES), seconds=60)

    notes = wait_for("two to be told", lambda: told(kubectl), lambda found: len(found) >= 2, seconds=150)

    assert sorted(notes) == ["deaf", "shy"]
    assert "but 8080, its containerPort before, is open there and is nobody else's number" in notes["deaf"]
    assert "which is open on 127.0.0.1 alone" in notes["shy"]
    shown = command_line(access, "list", "-n", "default").stdout.splitlines()
    heard = {line.split()[0]: line for line in shown}
    assert (" yes " in heard["Pod/heard"], " no " in heard["Pod/deaf"]) == (True, True)
