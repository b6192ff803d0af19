"""The label that leads the Service to the allocator that serves."""

from __future__ import annotations

import asyncio
import logging

import pytest

from allocator.cluster.signpost import LABEL, Signpost
from testing.apiserver import ApiServer, Fail
from testing.waiting import until


def pod(server: ApiServer, name: str, **labels: str) -> None:
    server.put("pods", {"kind": "Pod", "metadata": {"name": name, "namespace": "home", "uid": name, "labels": labels}})


def marked(server: ApiServer) -> list[str]:
    return [each["metadata"]["name"] for each in server.all("pods") if LABEL in each["metadata"].get("labels", {})]


def signpost(server: ApiServer, *, serves: bool = True) -> Signpost:
    return Signpost(server.client(), namespace="home", pod_name="ours", may_write=lambda: serves)


async def test_our_pod_gets_the_label_and_the_one_before_us_loses_it(server: ApiServer) -> None:
    pod(server, "ours", app="allocator")
    pod(server, "theirs", **{LABEL: "true"})
    running = asyncio.create_task(signpost(server).forever())
    await until(lambda: marked(server) == ["ours"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    ours = server.find("pods", "home", "ours")
    assert ours is not None
    assert ours["metadata"]["labels"] == {"app": "allocator", LABEL: "true"}


async def test_who_does_not_serve_writes_nothing(server: ApiServer) -> None:
    pod(server, "ours")
    await signpost(server, serves=False)._turn()

    assert (marked(server), server.requests) == ([], [])


async def test_a_label_that_cannot_be_written_is_told_once(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    pod(server, "ours")
    server.script("patch pods", Fail(403, "no right"), Fail(403, "no right"))
    post = signpost(server)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await post._turn()

    assert [record.getMessage() for record in caplog.records] == [
        "the Service does not lead here: Pod ours cannot be labelled: 403 R: no right"
    ]
    assert marked(server) == ["ours"]
