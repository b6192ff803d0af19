"""The cluster of size that `make bench` measures with: what is followed is there, and can be read."""

from __future__ import annotations

from typing import Any
from urllib.request import Request, urlopen

import pytest

from allocator.cluster.kubernetes import NAMESPACES, NODES, PODS, SERVICES
from testing.simulator import PROTOBUF, serving

THERE: dict[Any, int] = {NODES: 3, PODS: 10, SERVICES: 0, NAMESPACES: 0}


@pytest.mark.parametrize("accept", [PROTOBUF, "application/json"], ids=["protobuf", "JSON"])
def test_all_that_an_allocator_follows_can_be_read(accept: str) -> None:
    read: dict[Any, int] = {}
    with serving(nodes=3, pods=10) as url:
        for resource in THERE:
            request = Request(f"{url}{resource.path}?limit=500", headers={"Accept": accept})
            with urlopen(request, timeout=60) as answer:
                read[resource] = len(resource.reader.page(answer.read()).items)

    assert read == THERE
