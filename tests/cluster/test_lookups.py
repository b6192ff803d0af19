"""Looks of one namespace do not use up those of another."""

from __future__ import annotations

import asyncio
import time

import pytest

from allocator.cluster import kubernetes
from allocator.cluster.contract import PodRef
from allocator.cluster.kubernetes import MOST_LOOKUPS, MOST_LOOKUPS_OF_ONE, KubernetesCluster
from allocator.core.claims import PodUid
from cluster.conftest import Follow
from testing.apiserver import ApiServer
from testing.observing import Recorder, node

ANSWER_SECONDS = 0.05
PATIENCE_SECONDS = 2.0  # in place of half a second, which a slow machine may take for three answers


class SlowReads:
    """Answers each look after a moment: there is no such Pod."""

    def __init__(self) -> None:
        self.at_once: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def get(self, ref: PodRef) -> None:
        for who in (ref.namespace, "all"):
            self.at_once[who] = self.at_once.get(who, 0) + 1
            self.most[who] = max(self.most.get(who, 0), self.at_once[who])
        try:
            await asyncio.sleep(ANSWER_SECONDS)
        finally:
            for who in (ref.namespace, "all"):
                self.at_once[who] -= 1


@pytest.fixture
async def cluster(server: ApiServer, follow: Follow) -> KubernetesCluster:
    server.put("nodes", node("n1"))
    cluster = follow(Recorder())
    await asyncio.wait_for(cluster.synced(), 5)
    return cluster


@pytest.fixture
def reads(cluster: KubernetesCluster, monkeypatch: pytest.MonkeyPatch) -> SlowReads:
    reads = SlowReads()
    monkeypatch.setattr(cluster, "_get", reads.get)
    return reads


def look(cluster: KubernetesCluster, asker: str, count: int) -> asyncio.Task[bool]:
    refs = [PodRef(asker, f"p{number}", PodUid(f"{asker}-{number}")) for number in range(count)]
    return asyncio.create_task(cluster.look(refs, asker))


@pytest.mark.parametrize("tenants", [1, 2], ids=["one tenant", "two tenants"])
async def test_a_hundred_denials_of_a_tenant_leave_the_others_their_looks(
    cluster: KubernetesCluster, reads: SlowReads, tenants: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "LOOK_SECONDS", PATIENCE_SECONDS)
    floods = [look(cluster, f"flood-{n % tenants}", 16) for n in range(100 * tenants)]
    await asyncio.sleep(0.02)
    began = time.monotonic()

    assert await look(cluster, "victim", 3), "looked up in time"
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    found = await asyncio.gather(*floods)
    assert reads.most == {"all": reads.most["all"], "victim": 3} | {
        f"flood-{n}": MOST_LOOKUPS_OF_ONE for n in range(tenants)
    }
    assert reads.most["all"] <= MOST_LOOKUPS
    assert not all(found), "what is beyond a tenant's share takes longer than a denial waits"
    assert reads.at_once == dict.fromkeys(reads.at_once, 0), "what nobody waits for is not looked up"


async def test_a_tenant_that_is_alone_has_its_look(cluster: KubernetesCluster, reads: SlowReads) -> None:
    assert await look(cluster, "demo", 16)
