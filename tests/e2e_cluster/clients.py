"""Clients that create Pods on nodes that are only entries in the API, beside whatever a test does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e_cluster import load
from e2e_cluster.driver import Access

CLIENTS, PLAIN_CLIENTS = 16, 2
NODES = ("load-1", "load-2")
HERE = {"key": "e2e.hostport.io/no-machine", "effect": "NoSchedule"}
UNCOUNTED = {"node.kubernetes.io/exclude-disruption": "true"}
"""Nobody says that these are ready. Counted with one that lost its power they are most of the nodes, and where most of
a small cluster is not ready, Kubernetes evicts nobody: the allocator stayed on the lost node in one run of several."""


@contextmanager
def paper_nodes(access: Access) -> Iterator[None]:
    """Entries in the API: a Pod that names one is admitted and planned there, and costs nobody anything."""
    for name in NODES:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": UNCOUNTED},
            "spec": {"taints": [HERE]},
        }
        access.kubectl("create", "-f", "-", stdin=json.dumps(node))
    access.kubectl.run("create", "namespace", load.NAMESPACE)  # it stays
    yield
    access.kubectl("delete", "node", *NODES)


def run_load(access: Access, seconds: int, folder: Path) -> subprocess.Popen[str]:
    """Starts them; what they saw is one line of JSON on stdout when they end."""
    config = folder / "load.json"
    shown = access.kubectl("config", "view", "--raw", "--flatten", "-o", "json")
    config.write_text(shown.stdout, encoding="utf-8")
    command = [sys.executable, load.__file__, str(config), str(seconds), str(CLIENTS), str(PLAIN_CLIENTS), *NODES]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
