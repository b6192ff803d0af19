"""One cluster and one installation for the whole session, made the way users make them.

Where the machine can have no cluster everything is skipped with one line that says why.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import binaries
from e2e.binaries import CHECKOUT
from e2e.processes import Timeout, wait_until
from e2e.tools import tool
from images import building

from e2e_cluster.driver import Access, Driver, Unavailable
from e2e_cluster.faults import Fault
from e2e_cluster.installed import AGENT, Installed

IMG = "localhost/hostport-operator:e2e"


def pytest_configure() -> None:
    """A terminated run must tear down like an interrupted one."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a cluster with nothing in it comes first, and what loses a node last: it does not come back."""

    def loses_a_node(item: pytest.Item) -> bool:
        fault = getattr(getattr(item, "callspec", None), "params", {}).get("fault")
        return isinstance(fault, Fault) and fault.loses_a_node

    items.sort(key=lambda item: (item.get_closest_marker("bare") is None, loses_a_node(item)))


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Everything that a run writes. Kept when a case failed, for its logs."""
    path = Path(tempfile.mkdtemp(prefix="hostport-nodes-"))
    yield path
    if request.session.testsfailed:
        sys.stderr.write(f"\ne2e-cluster: the logs of this run are in {path}\n")
    else:
        shutil.rmtree(path, ignore_errors=True)


def chosen_driver(folder: Path) -> Driver:
    if os.environ.get("HOSTPORT_E2E_DRIVER", "linux") == "kind":
        from e2e_cluster.kind import KindCluster

        return KindCluster(folder)
    from e2e_cluster.linux import LinuxCluster

    return LinuxCluster(folder)


@pytest.fixture(scope="session")
def driver(request: pytest.FixtureRequest, folder: Path) -> Driver:
    """A build takes minutes and tells so, past the capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        with contextlib.suppress(pytest.skip.Exception):
            tool("helm")  # the cluster's network has no way out: what is not here by then cannot be built
        try:
            return chosen_driver(folder)
        except (Unavailable, building.Unavailable) as reason:
            pytest.exit(f"e2e-cluster skipped, none of its cases ran: {reason}", returncode=0)
        except binaries.Broken as reason:
            pytest.exit(f"e2e-cluster: {reason}", returncode=1)


@pytest.fixture(scope="session")
def access(driver: Driver) -> Iterator[Access]:
    try:
        yield driver.create()
    except (Timeout, RuntimeError) as reason:
        pytest.exit(f"e2e-cluster: {reason}", returncode=1)
    finally:
        driver.delete()


@pytest.fixture(scope="session")
def clone(driver: Driver, access: Access, folder: Path) -> Path:
    """A fresh clone, after `make images`. Loading them stands in for a registry."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    make(driver, clone, "images", f"IMG={IMG}")
    name, tag = IMG.rsplit(":", 1)
    driver.load(f"{name}-allocator:{tag}", f"{name}-shim:{tag}")
    return clone


@pytest.fixture(scope="session")
def installed(driver: Driver, access: Access, clone: Path) -> Installed:
    """`make deploy`."""
    make(driver, clone, "deploy", f"IMG={IMG}")
    return Installed(driver, access, clone)


@pytest.fixture(scope="module")
def agents(driver: Driver, clone: Path, installed: Installed) -> Iterator[None]:
    """The installation, with an agent on every node; afterwards as it was."""
    with agents_of(driver, clone, installed, "agent"):
        yield


@contextlib.contextmanager
def agents_of(driver: Driver, clone: Path, installed: Installed, overlay: str) -> Iterator[None]:
    """The installation with the agents of an overlay; afterwards as it was."""
    name, tag = IMG.rsplit(":", 1)
    driver.load(f"{name}-agent:{tag}")
    run_agents(driver, clone, installed, overlay)
    yield
    installed.kubectl("delete", "daemonset", AGENT)
    make(driver, clone, "deploy", f"IMG={IMG}")


def run_agents(driver: Driver, clone: Path, installed: Installed, overlay: str) -> None:
    """Has the agents of an overlay run on all nodes, and report."""
    make(driver, clone, "deploy", f"IMG={IMG}", f"OVERLAY={overlay}")
    installed.kubectl("rollout", "status", f"daemonset/{AGENT}", "--timeout=120s")
    count = len(installed.pods(AGENT))
    wait_until("all agents to report", lambda: installed.metric("hostport_agents") == count, seconds=60)


def make(driver: Driver, clone: Path, *verbs: str) -> None:
    environ = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL"}}
    done = subprocess.run(
        driver.make(*verbs), cwd=clone, env=environ, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, f"make {verbs}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
