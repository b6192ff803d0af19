"""The command line against an installation on real nodes: through a port that kubectl forwards, with a token that it makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from e2e.binaries import CHECKOUT

from e2e_cluster.driver import Access
from e2e_cluster.installed import Installed


def hostport(access: Access, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it as a user does who has a kubeconfig and nothing else."""
    kubectl = access.kubectl
    environ = {"PATH": f"{Path(kubectl.program).parent}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    return subprocess.run(
        [sys.executable, "-m", "hostport_cli", *arguments, f"--kubeconfig={kubectl.kubeconfig}"],
        capture_output=True, text=True, check=False, timeout=120, cwd=CHECKOUT, env=environ,
    )  # fmt: skip


def test_a_fresh_installation_is_all_green(access: Access, installed: Installed) -> None:
    done = hostport(access, "check", "--wait=90s")

    assert (done.returncode, [line for line in done.stdout.splitlines() if line.startswith(("✗", "‼"))]) == (0, []), (
        done
    )
    assert "✓ a shim is ready (2 of 2)" in done.stdout
    assert "✓ its certificates are good for a while" in done.stdout


def test_the_nodes_and_the_versions_are_told(access: Access, installed: Installed) -> None:
    nodes = hostport(access, "node", "-o", "name")

    assert (nodes.returncode, sorted(nodes.stdout.split())) == (0, sorted(access.nodes)), nodes
    assert "allocator" in hostport(access, "version").stdout


def test_whether_host_ports_are_forwarded_is_found_out_when_asked_for(access: Access, installed: Installed) -> None:
    done = hostport(access, "check", "--probe-hostport", "-n", "default")

    assert "✓ the network forwards host ports" in done.stdout, done
    names = [each["metadata"]["name"] for each in access.kubectl.within("default").pods()]
    assert not any(name.startswith("hostport-check-") for name in names), "it is deleted"
