"""A service that tells callers apart."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from access.reviewing import ReviewServer
from access.secured import Secured


@pytest.fixture
async def server() -> AsyncIterator[ReviewServer]:
    server = ReviewServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def secured(server: ReviewServer, request: pytest.FixtureRequest) -> AsyncIterator[Secured]:
    """With options of the gRPC server, if a test marks them: @pytest.mark.parametrize("secured", [...], indirect=True)."""
    secured = Secured(server, getattr(request, "param", None))
    await secured.start()
    yield secured
    await secured.stop()
