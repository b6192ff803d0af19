"""cert-manager, and one control plane for the whole session. What the machine lacks is told by skipped cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import binaries
from e2e.control_plane import ControlPlane, control_plane
from e2e.tools import tool

from cert_manager.installed import NAMESPACE, CertManager, Installed, cert_manager, install


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> str:
    """A build takes minutes and tells so, past the capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return str(tool("cert-manager"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plane")


@pytest.fixture(scope="session")
def plane(program: str, folder: Path) -> Iterator[ControlPlane]:
    assert program
    try:
        found = binaries.locate()
    except binaries.Unavailable as reason:
        pytest.skip(str(reason))
    with control_plane(found, folder, nodes=("n1", "n2", "n3")) as running:
        yield running


@pytest.fixture(scope="session")
def controllers(plane: ControlPlane, program: str) -> Iterator[CertManager]:
    with cert_manager(plane, program) as running:
        yield running


@pytest.fixture
def installed(plane: ControlPlane, controllers: CertManager, tmp_path: Path) -> Iterator[Installed]:
    """The product, from nothing."""
    with install(plane, controllers, tmp_path) as running:
        yield running
    plane.kubectl("delete", "namespace", NAMESPACE)
