"""kill -9 of the allocator while clients create and delete Pods through the real API server, failurePolicy Fail.

`make soak` runs three minutes of it and prints the table; SOAK_SECONDS says how long.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

import pytest

from e2e.control_plane import ControlPlane
from e2e.processes import wait_for
from e2e.product import Product
from e2e.soak import Clients, Witness
from e2e.test_live_cluster import Pool, pool

pytestmark = pytest.mark.workloads

__all__ = ["pool"]

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
PACE = 10.0
CLIENTS = 16


def test_the_allocator_dies_again_and_again_and_no_port_is_lost_or_given_twice(
    plane: ControlPlane, product: Product, namespace: str, pool: Callable[[int], Pool]
) -> None:
    witness = Witness(plane.api, namespace)
    clients = Clients(plane.api, namespace, pool(4).spec, count=CLIENTS, webhook=product.shim.base)
    kills: list[float] = []
    with witness.watching(), clients.working():
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(PACE / 2)
            kills.append(time.monotonic())
            product.allocator.kill()
            product.allocator.start()
            time.sleep(max(0.0, kills[-1] + PACE / 2 - time.monotonic()))
    held = wait_for(
        "the last reservations to expire",
        lambda: product.allocator.allocations(namespace),
        lambda found: not found,
        seconds=75,
    )

    tally = clients.tally
    until = [*kills[1:], max(tally.created)]
    pauses = [tally.longest_pause(kill, end) for kill, end in zip(kills, until, strict=True)]
    sys.stderr.write(
        f"\n| creations | refused with 503 | refused otherwise | Pods seen on nodes | kills | pause p50 | pause max |"
        f" conflicts | ports leaked |\n|---|---|---|---|---|---|---|---|---|\n"
        f"| {len(tally.created)} | {tally.unavailable} | {tally.others.total()} | {witness.seen} | {len(kills)} |"
        f" {statistics.median(pauses):.2f} s | {max(pauses):.2f} s | {len(witness.conflicts)} | {len(held)} |\n"
    )
    assert witness.conflicts == []
    assert tally.others == {}
    assert witness.seen > 10 * len(kills)
