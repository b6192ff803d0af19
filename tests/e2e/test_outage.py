"""The API server is away for half a minute, and what happened meanwhile is compacted: the watch cannot go on from where
it was. A control plane of its own, since everything on it stands still.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from e2e.binaries import Binaries
from e2e.control_plane import ControlPlane, control_plane, create_namespace
from e2e.manifests import hostport, numbers_by_name, port
from e2e.manifests import pod as bare_pod
from e2e.processes import wait_for
from e2e.product import Product, watching_product
from e2e.seen import bound, running
from hostport.v1 import allocator_pb2 as pb

pytestmark = pytest.mark.workloads

AWAY = 30.0
NAMESPACE = "outage"


@pytest.fixture
def lonely(binaries: Binaries, folder: Path) -> Iterator[Product]:
    """Another control plane and product."""
    place = folder / "outage"
    place.mkdir()
    with control_plane(binaries, place, nodes=("n1", "n2")) as plane, watching_product(plane, place) as product:
        yield product


def forget_pod(plane: ControlPlane, name: str) -> None:
    """Takes a Pod out of etcd while no API server looks, then compacts: nobody can tell any more when it went."""
    key = base64.b64encode(f"/registry/pods/{NAMESPACE}/{name}".encode()).decode()
    gone = plane.etcd.ask("POST", "/v3/kv/deleterange", {"key": key}).json
    assert gone["deleted"] == "1"
    compacted = plane.etcd.ask("POST", "/v3/kv/compaction", {"revision": gone["header"]["revision"]})
    assert compacted.status == 200, compacted.text


def reason(error: Any) -> str:
    """The reason of an error of the contract."""
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    assert status
    assert any(detail.Unpack(info) for detail in status.details)
    return str(info.reason)


def relists(product: Product) -> float:
    found = re.search(r"^hostport_relists_total (\S+)$", product.allocator.metrics(), re.MULTILINE)
    assert found
    return float(found[1])


def test_while_the_api_server_is_away_the_allocator_answers_from_what_it_knows_and_then_catches_up(
    lonely: Product,
) -> None:
    plane, allocator = lonely.plane, lonely.allocator
    kubectl = create_namespace(plane, NAMESPACE)

    def fixed(name: str, number: int) -> None:
        kubectl.apply(bare_pod(name, hostport(policy="Static"), port(80, hostPort=number), nodeName="n1"))

    for name, number in (("stays", 24000), ("goes", 24001), ("goes-unseen", 24002)):
        fixed(name, number)
    running(kubectl, 3)
    bound(lonely, NAMESPACE, 3)
    before = relists(lonely)

    kubectl("delete", "pod", "goes", "--force", "--grace-period=0")
    fixed("late", 24003)
    plane.server.kill()
    begin = time.monotonic()
    forget_pod(plane, "goes-unseen")

    free = allocator.lease("n1", 24010)  # nobody there holds it, as far as anybody can know
    time.sleep(5)  # the view is old now
    with pytest.raises(grpc.RpcError) as refused:
        allocator.lease("n1", 24002)  # held by a Pod of which nobody can say whether it lives
    assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.UNAVAILABLE, "VIEW_STALE")
    time.sleep(max(0.0, begin + AWAY - time.monotonic()))

    plane.server.start()
    plane.server.wait_until("ready", lambda: plane.api.is_ok("/readyz"), seconds=60)

    pods = running(kubectl, 2)
    assert numbers_by_name(pods) == {"late": [24003], "stays": [24000]}
    bound(lonely, NAMESPACE, 2)
    assert relists(lonely) > before
    fixed("next", 24002)
    bound(lonely, NAMESPACE, 3)
    everything = wait_for("all of it", allocator.allocations, lambda found: len(found) == 4)
    assert free in {each.id for each in everything if each.state == pb.STATE_LEASED}
