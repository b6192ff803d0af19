"""From an older release to this one and back on real nodes, and away, while clients create Pods: none is refused.

The older one is the last release (testing/released.py), or the commit that HOSTPORT_UPGRADE_FROM names: its chart, its
images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.binaries import CHECKOUT
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_for
from e2e.tools import tool
from helm.helm import CHART, NAMESPACE, RELEASE, Helm, settings

from e2e_cluster.clients import paper_nodes, run_load
from e2e_cluster.conftest import IMG, make
from e2e_cluster.driver import Access, Driver
from testing.released import released_commit

OLDER = "localhost/hostport-operator:older"
LET_THROUGH = "201, but without a host port"
QUIET = 5  # seconds before and after each step
PLACE = CHART.relative_to(CHECKOUT)

pytestmark = pytest.mark.bare


@pytest.fixture
def older(driver: Driver, access: Access, folder: Path) -> Path:
    """A clone of the older release, whose images are on the nodes."""
    if not (commit := os.environ.get("HOSTPORT_UPGRADE_FROM") or released_commit()):
        pytest.skip("git knows no release here, and HOSTPORT_UPGRADE_FROM is not set")
    clone = folder / "older"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    subprocess.run(["git", "checkout", "--quiet", commit], cwd=clone, check=True)
    make(driver, clone, "images", f"IMG={OLDER}")
    name, tag = OLDER.rsplit(":", 1)
    driver.load(f"{name}-allocator:{tag}", f"{name}-shim:{tag}")
    return clone


@pytest.fixture
def places(access: Access) -> Iterator[None]:
    with paper_nodes(access):
        yield


def image(reference: str) -> list[str]:
    repository, _, tag = reference.rpartition(":")
    return list(settings({"image.repository": repository, "image.tag": tag, "image.pullPolicy": "Never"}))


def under_load(access: Access, folder: Path, *steps: Callable[[], object]) -> dict[str, Any]:
    """What clients saw while these steps were done, one after the other."""
    start = time.monotonic()
    with run_load(access, 300, folder) as clients:
        try:
            time.sleep(QUIET)
            for at, step in enumerate(steps):
                began = time.monotonic()
                step()
                sys.stderr.write(f"\nstep {at + 1}: {began - start:.0f} s to {time.monotonic() - start:.0f} s\n")
                time.sleep(QUIET)
            clients.terminate()
            said, _ = clients.communicate(timeout=60)
        finally:
            clients.kill()
    seen: dict[str, Any] = json.loads(said)
    return seen


def is_admitting(access: Access) -> bool:
    """A Deployment is there a moment before kube-proxy knows its Pods. Several tries: each may take another way."""
    asking = json.dumps(pod("asking-0", hostport(policy="Dynamic"), port(80)))
    tries = (
        access.kubectl.within("default").run("create", "--dry-run=server", "-f", "-", stdin=asking) for _ in range(5)
    )
    return all(each.code == 0 for each in tries)


def test_an_upgrade_a_rollback_and_an_uninstallation_refuse_no_pod(
    access: Access, older: Path, clone: Path, folder: Path, places: None
) -> None:
    helm = Helm(str(tool("helm")), folder, access.kubectl.kubeconfig)
    patient = ("--wait", "--timeout=110s")
    helm("install", RELEASE, str(older / PLACE), "--create-namespace", *patient, *image(OLDER))
    wait_for("kube-proxy to lead to the webhook", lambda: is_admitting(access), bool)

    seen = under_load(
        access,
        folder,
        lambda: helm("upgrade", RELEASE, str(clone / PLACE), "--reset-then-reuse-values", *patient, *image(IMG)),
        lambda: helm("rollback", RELEASE, "1", *patient),
        lambda: helm("upgrade", RELEASE, str(clone / PLACE), "--reset-then-reuse-values", *patient, *image(IMG)),
    )
    assert seen["asking"]["errors"] == [], seen
    assert (seen["plain"]["failed"], seen["conflicts"]) == (0, [])

    seen = under_load(access, folder, lambda: helm("uninstall", RELEASE, *patient))
    assert {error for error, _ in seen["asking"]["errors"]} <= {LET_THROUGH}
    assert (seen["plain"]["failed"], seen["conflicts"]) == (0, [])
    wait_for("our Pods to be gone", lambda: access.kubectl.within(NAMESPACE).pods(), lambda pods: not pods)
