"""Helm, and one control plane for the whole session. What the machine lacks is told by the cases that are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e import binaries
from e2e.control_plane import ControlPlane, control_plane
from e2e.tools import tool

from helm.helm import Helm
from helm.network import ServiceNetwork, service_network


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """A build takes minutes and tells so, past the capture."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return Helm(str(tool("helm")), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plane")


@pytest.fixture(scope="session")
def network(folder: Path) -> Iterator[ServiceNetwork]:
    with service_network(folder) as running:
        yield running


@pytest.fixture(scope="session")
def plane(helm: Helm, network: ServiceNetwork, folder: Path) -> Iterator[ControlPlane]:
    """A control plane of its own: the installation is the cluster's, so it cannot stand beside another."""
    try:
        found = binaries.locate()
    except binaries.Unavailable as reason:
        pytest.skip(str(reason))
    if missing := found.missing_for_workloads:
        pytest.skip(f"{', '.join(missing)} not in KUBEBUILDER_ASSETS; unset it to build them here")
    flags = (f"--egress-selector-config-file={network.selector(folder)}",)
    with control_plane(found, folder, nodes=("n1", "n2"), api_server_flags=flags) as running:
        yield running
