"""Rows of callers that read: lists, Nodes, metrics, watches."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import grpc
from prometheus_client import generate_latest

from allocator.core.candidates import Constraints
from allocator.core.claims import ClusterChange
from bench.processes import CHECKOUT
from bench.stalls.cluster import NODES, a_pod, fill, node_name, restore, waiting
from bench.turns import CALL_SECONDS, Place
from hostport.v1 import allocator_pb2 as pb


def list_all(place: Place) -> None:
    """ListAllocations: 40 pages of 1,000"""
    _pages(place)


def list_small(place: Place) -> None:
    """ListAllocations: 100 pages of 10, one caller after the other"""
    with place.measured():
        for _ in range(100):
            place.stub.ListAllocations(pb.ListAllocationsRequest(page_size=10), timeout=CALL_SECONDS)
    place.remark(f"{1000 * place.stall.spent / 100:.1f} ms of CPU each")


def list_filtered(place: Place) -> None:
    """ListAllocations with a filter that nothing passes"""
    _pages(place, owner_name="nobody")


def _pages(place: Place, **filters: Any) -> None:
    found = pages = 0
    request = pb.ListAllocationsRequest(page_size=1_000, **filters)
    with place.measured():
        while pages < 40:
            page = place.stub.ListAllocations(request, timeout=CALL_SECONDS)
            found, pages = found + len(page.allocations), pages + 1
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    place.remark(f"{found:,} in {pages} pages, {1000 * place.stall.spent / pages:.0f} ms of CPU each")


def list_node(place: Place) -> None:
    """ListAllocations of one node"""
    _pages(place, node=node_name(17))


def list_nodes(place: Place) -> None:
    """ListNodes: all pages of 1,000"""
    request = pb.ListNodesRequest(page_size=1_000)
    with place.measured():
        while True:
            page = place.stub.ListNodes(request, timeout=CALL_SECONDS)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break


def get_node(place: Place) -> None:
    """GetNode of a node with 20,000 ports, five times; 100 of an ordinary one, and of one that is unknown"""
    pods = [a_pod(300_000 + at, *range(30_000 + at * 100, 30_100 + at * 100), node=node_name(5)) for at in range(200)]
    place.on_loop(lambda: place.engine.ledger.observe(ClusterChange(pods=pods), now=0.0))
    with place.measured():
        for _ in range(5):
            place.stub.GetNode(pb.GetNodeRequest(name=node_name(5)), timeout=CALL_SECONDS)
        for at in range(100):
            place.stub.GetNode(pb.GetNodeRequest(name=node_name(at + 10)), timeout=CALL_SECONDS)
            try:
                place.stub.GetNode(pb.GetNodeRequest(name="nowhere"), timeout=CALL_SECONDS)
            except grpc.RpcError:
                continue


def scrape(place: Place) -> None:
    """a scrape of the metrics, while 5,000 Pods wait"""
    fill(place, range(10), 9_000, first=300_000)
    within = Constraints(selector=(("pool", "p0"),))
    place.on_loop(restore, place, [waiting(200_000 + at, 9_000, constraints=within) for at in range(5_000)])
    with place.measured():
        for _ in range(5):
            place.on_loop(lambda: len(generate_latest(place.metrics.registry)))


def watch(place: Place) -> None:
    """WatchAllocations of 150,000, and 20,000 changes as fast as the cluster brings them"""
    _watch(place)


def watch_single(place: Place) -> None:
    """the same for a client that takes one event in a message"""
    _watch(place, "--single")


def _watch(place: Place, *flags: str) -> None:
    command = [sys.executable, "-m", "bench.watcher", f"--address=127.0.0.1:{place.port}", *flags]
    with place.measured(), subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout
        try:
            began = time.perf_counter()
            word, number = watcher.stdout.readline().split()
            place.remark(f"{word} with {number} after {time.perf_counter() - began:.1f} s")
            began = time.perf_counter()
            place.on_loop(_churn, place, 20_000)
            told = time.perf_counter() - began
            last = _last_change(watcher.stdout, 20_000)
            rate = 20_000 / (time.perf_counter() - began)
            place.remark(f"20,000 changes told in {told:.1f} s, {last}: {rate:,.0f}/s")
        finally:
            watcher.kill()


def _last_change(lines: Iterable[str], number: int) -> str:
    for line in lines:
        word, what = line.split()
        if word == "ended" or int(what) >= number:
            return f"{word} {what}"
    return "nothing"


async def _churn(place: Place, number: int) -> None:
    """New Pods, 256 in a turn."""
    for start in range(0, number, 256):
        pods = [
            a_pod(700_000 + at, 5_000 + at % 1_000, node=node_name(at % NODES))
            for at in range(start, min(number, start + 256))
        ]
        place.engine.maintenance.observe(ClusterChange(pods=pods, lists_pods=True))
        await asyncio.sleep(0)
