"""The images, built once for the session. Where the machine cannot build them, one line says why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from images import building
from images.container import Container, container


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> building.Images:
    try:
        building.require_tools()
    except building.Unavailable as reason:
        pytest.exit(f"images skipped: {reason}", returncode=0)
    return building.build("localhost/hostport-operator:test")


@pytest.fixture(scope="session")
def allocator(images: building.Images) -> Iterator[Container]:
    with container(images.allocator) as one:
        yield one


@pytest.fixture(scope="session")
def shim(images: building.Images) -> Iterator[Container]:
    with container(images.shim) as one:
        yield one


@pytest.fixture(scope="session")
def agent(images: building.Images) -> Iterator[Container]:
    with container(images.agent) as one:
        yield one
