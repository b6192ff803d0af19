"""One control plane and one product for the whole session; a namespace for each case.

Where the machine can have no control plane everything is skipped with one line that says why.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import binaries as programs
from e2e.api import Kubectl
from e2e.control_plane import ControlPlane, control_plane, create_namespace
from e2e.processes import Timeout
from e2e.product import Product, watching_product

NODES = ("n1", "n2", "n3")


def pytest_configure() -> None:
    """A terminated run must tear down like an interrupted one."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason to skip, not one for each case."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, cases in reasons.items():
        terminalreporter.write_line(f"e2e: {cases} cases: {reason}", yellow=True)


@pytest.fixture(scope="session")
def binaries(request: pytest.FixtureRequest) -> programs.Binaries:
    """A build takes minutes and tells so, past the capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            return programs.locate()
        except programs.Unavailable as reason:
            pytest.exit(f"e2e skipped: {reason}", returncode=0)
        except programs.Broken as reason:
            pytest.exit(f"e2e: {reason}", returncode=1)


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Everything that a run writes. Kept when a case failed, for its logs."""
    path = Path(tempfile.mkdtemp(prefix="hostport-e2e-"))
    yield path
    if request.session.testsfailed:
        sys.stderr.write(f"\ne2e: the logs of this run are in {path / 'logs'}\n")
    else:
        shutil.rmtree(path)


@contextlib.contextmanager
def start_or_exit() -> Iterator[contextlib.ExitStack]:
    """What does not start is told once, not by every case."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack
        except Timeout as reason:
            pytest.exit(f"e2e: {reason}", returncode=1)


@pytest.fixture(scope="session")
def plane(binaries: programs.Binaries, folder: Path) -> Iterator[ControlPlane]:
    with start_or_exit() as stack:
        running = stack.enter_context(control_plane(binaries, folder, nodes=NODES))
        yield running


@pytest.fixture(scope="session")
def product_session(plane: ControlPlane, folder: Path) -> Iterator[Product]:
    with start_or_exit() as stack:
        running = stack.enter_context(watching_product(plane, folder))
        yield running


@pytest.fixture(name="product")
def product_fixture(product_session: Product) -> Product:
    return product_session


@pytest.fixture(autouse=True)
def _logs(request: pytest.FixtureRequest, product_session: Product) -> Iterator[None]:
    """Shows with a failed case what the programs logged during it. An exception that nobody caught fails any case."""
    logs = [log for program in ("allocator", "shim") for log in product_session.plane.logs.glob(f"{program}*.log")]
    before = {log: log.stat().st_size for log in logs}
    yield
    fresh = {log.stem: log.read_bytes()[size:].decode(errors="replace") for log, size in before.items()}
    for name, lines in fresh.items():
        request.node.add_report_section("teardown", name, lines[-8000:])
    assert [name for name, lines in fresh.items() if "Traceback" in lines] == []


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest, binaries: programs.Binaries) -> None:
    if request.node.get_closest_marker("workloads") and (missing := binaries.missing_for_workloads):
        pytest.skip(f"{', '.join(missing)} not in KUBEBUILDER_ASSETS; unset it to build them here")


def case_name(request: pytest.FixtureRequest) -> str:
    """The case's name, as Kubernetes takes names."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")[:60].rstrip("-")


@pytest.fixture
def namespace(request: pytest.FixtureRequest, plane: ControlPlane) -> Iterator[str]:
    """A namespace that goes with the case, without waiting for it."""
    name = case_name(request)
    create_namespace(plane, name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubectl(plane: ControlPlane, namespace: str) -> Kubectl:
    """In the namespace of the case."""
    return plane.kubectl.within(namespace)


@pytest.fixture
def node(plane: ControlPlane, namespace: str) -> Iterator[str]:
    """A node of the case alone, whose label `e2e.hostport.io/case` is its name."""
    name = namespace[:50].rstrip("-")
    plane.fleet.add(name, **{"e2e.hostport.io/case": name})
    yield name
    plane.fleet.remove(name)
