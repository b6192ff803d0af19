"""A simulated API server, and a cluster that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from allocator.cluster.kubernetes import KubernetesCluster
from allocator.cluster.reflector import WatchTuning
from testing.apiserver import ApiServer
from testing.observing import Recorder

TUNING = WatchTuning(page=3, stall_seconds=0.5, proof_seconds=0.01, proof_grace=0.005, probe_stall=0.4)

Follow = Callable[..., KubernetesCluster]


ENCODINGS = ("JSON", "protobuf")


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ApiServer]:
    """It speaks both encodings, or JSON alone where a test is parametrized so."""
    server = ApiServer()
    server.speaks_protobuf = getattr(request, "param", "protobuf") == "protobuf"
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def follow(server: ApiServer) -> AsyncIterator[Follow]:
    """Starts to follow the server, for one observer; without chance, so that pauses are half of their bound."""
    running: list[asyncio.Task[None]] = []

    def start(observer: Recorder, *, tuning: WatchTuning = TUNING, **more: object) -> KubernetesCluster:
        cluster = KubernetesCluster(server.client(), tuning=tuning, chance=lambda: 0.0, **more)  # type: ignore[arg-type]
        running.append(asyncio.create_task(cluster.run(observer)))
        return cluster

    yield start
    for task in running:
        task.cancel()
    for result in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
