"""A cluster file with workloads as people have them, admitted through the real API: for tests and for pictures.

Nodes and Pods stand in a file (`--cluster file:`); numbers come from Allocate. A Pod that was admitted is written with
its allocation id and a node of its pool, as the webhook and the scheduler would leave it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

Json = dict[str, Any]

AT_ONCE = 64
POOL_NODES = 50
LETTERS = "bcdfghjklmnpqrstvwxz2456789"

REPORTED = 8
"""Nodes whose agents report."""

LOBBY: Json = {
    "kind": "Service",
    "metadata": {"namespace": "games", "name": "lobby", "uid": "lobby"},
    "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 31080, "protocol": "TCP"}]},
}


@dataclass(slots=True)
class Crowd:
    """So many nodes, and what runs there. The same seed makes the same crowd."""

    path: Path
    nodes: int
    games: int  # Pods of Deployments, for each node on average
    outsiders: int = 1  # Pods that never asked, for each node
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    pods: list[Json] = field(default_factory=list)
    _taken: set[tuple[str, int]] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        digits = max(1, len(str(self.nodes - 1)))
        return [f"worker-{n:0{digits}}" for n in range(self.nodes)]

    def pool(self, name: str) -> str:
        return f"pool-{int(name.rpartition('-')[2]) // POOL_NODES}"

    def write(self) -> None:
        """Replaces the file as a whole."""
        items = [
            {"kind": "Node", "metadata": {"name": name, "labels": {"pool": self.pool(name)}}} for name in self.names
        ]
        text = json.dumps({"kind": "List", "items": [*items, LOBBY, *self.pods]})
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.path)

    def settle_outsiders(self) -> None:
        """A node exporter everywhere, and some old agents in the middle of the usual range."""
        for place, node in enumerate(self.names):
            self._store(f"node-exporter-{self._suffix()}", "monitoring", node, [("metrics", "TCP", 9100)])
            if place % 9 == 4:
                self._store(f"legacy-agent-{self._suffix()}", "ops", node, [("", "TCP", 7077), ("", "UDP", 7078)])
            for extra in range(1, self.outsiders):
                self._store(f"old-{extra}-{self._suffix()}", "legacy", node, [("", "TCP", 8000 + extra)])

    def _suffix(self) -> str:
        return "".join(self.chance.choices(LETTERS, k=5))

    def _store(
        self, name: str, namespace: str, node: str, ports: Sequence[tuple[str, str, int]], *, claim: str = ""
    ) -> None:
        self._taken.update((node, number) for _, _, number in ports)
        annotations = {"hostport.io/allocation-id": claim} if claim else {}
        is_mapped = bool(claim) and len(self.pods) % 4 == 1
        if is_mapped:
            annotations["hostport.io/warnings"] = "MANY_PORTS,UNKNOWN_ANNOTATION"
        listed = [
            {"name": port, "protocol": protocol, "containerPort": number, "hostPort": number}
            for port, protocol, number in ports
        ]
        self.pods.append(
            {
                "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "uid": f"u{len(self.pods)}", "annotations": annotations},
                "spec": {"hostNetwork": not is_mapped, "containers": [{"name": "main", "ports": listed}]}
                | ({"nodeName": node} if node else {}),
                "status": {"phase": "Running" if node else "Pending"},
            }
        )  # fmt: skip

    # -- what runs

    def workloads(self) -> Iterator[pb.AllocateRequest]:
        names = self.names
        for number, node in enumerate(names):
            yield self._request("edge", f"proxy-{self._suffix()}", "proxy", pb.POLICY_PASSTHROUGH,
                                [("https", 7443), ("quic", 7444)], node=node)  # fmt: skip
            if number % 4 == 0:
                yield self._request("data", f"store-{number // 4}", "store", pb.POLICY_INDEX,
                                    [("client", 9042), ("peer", 7000)], node=node, index=number // 4 % 12,
                                    numbers=pb.PortRange(min=7040, max=7127), stride=12)  # fmt: skip
        for _ in range(self.games * self.nodes):
            # Some pools are busier than others.
            node = names[min(int(self.chance.betavariate(1.1, 1.7) * len(names)), len(names) - 1)]
            yield self._request("games", f"arena-6d5f9-{self._suffix()}", "arena", pb.POLICY_DYNAMIC,
                                [("play", 7777), ("query", 7778)], pool=self.pool(node),
                                numbers=pb.PortRange(min=7000, max=7127))  # fmt: skip

    @staticmethod
    def _request(
        namespace: str,
        name: str,
        controller: str,
        policy: pb.Policy.ValueType,
        ports: Iterable[tuple[str, int]],
        *,
        node: str = "",
        pool: str = "",
        index: int | None = None,
        numbers: pb.PortRange | None = None,
        stride: int = 0,
    ) -> pb.AllocateRequest:
        return pb.AllocateRequest(
            owner=pb.Owner(kind="Pod", namespace=namespace, name=name, controller_uid=f"{controller}-{name}"),
            policy=policy,
            ports=[
                pb.PortRequest(
                    container="main", name=port, container_port=number,
                    protocol=pb.PROTOCOL_UDP if port in {"play", "quic"} else pb.PROTOCOL_TCP,
                )
                for port, number in ports
            ],
            index=index,
            range=numbers,
            stride=stride,
            constraints=pb.NodeConstraints(node_name=node, node_selector={"pool": pool} if pool else {}),
        )  # fmt: skip

    async def admit(self, address: str) -> None:
        """Asks for everybody, stores them, leases some, and leaves some in each state of life."""
        async with grpc.aio.insecure_channel(address) as channel:
            stub = pb_grpc.AllocatorServiceStub(channel)
            await self._lease(stub)
            requests = list(self.workloads())
            late = max(2, len(requests) // 60)
            await self._admit_all(stub, requests[:-late], is_bound=True)
            self.write()
            await self._admit_all(stub, requests[-late : -late // 2], is_bound=False)
            self.write()
            await self._admit_all(stub, requests[-late // 2 :], is_bound=None)
            await self._refusals(stub)
            for node in self.names[:REPORTED]:
                await self._report(stub, node)

    async def _report(self, stub: pb_grpc.AllocatorServiceAsyncStub, node: str) -> None:
        """What an agent would say: sshd, a web server, and the programs of Pods, but for some that ignore their number."""
        here = [
            each["spec"] for each in self.pods if each["spec"].get("nodeName") == node and each["spec"]["hostNetwork"]
        ]
        ports = [port for spec in here for port in spec["containers"][0]["ports"]]
        opened = [(port["protocol"], port["hostPort"], "program") for port in ports if port["hostPort"] % 4]
        sockets = [
            pb.Socket(protocol=pb.Protocol.Value(f"PROTOCOL_{protocol}"), port=number, process=process)
            for protocol, number, process in (*opened, ("TCP", 22, "sshd"), ("TCP", 8088, "nginx"))
        ]
        ephemeral = pb.PortRange(min=32768, max=60999)
        report = pb.ReportNodeRequest(node=node, snapshot=True, opened=sockets, ephemeral_range=ephemeral)
        async for _ in stub.ReportNode(iter([report]), timeout=60):
            pass

    async def _admit_all(
        self, stub: pb_grpc.AllocatorServiceAsyncStub, requests: list[pb.AllocateRequest], *, is_bound: bool | None
    ) -> None:
        """`is_bound`: None stores no Pod, so that it stays RESERVED."""
        queue = iter(requests)

        async def worker() -> None:
            for request in queue:
                claim = (await stub.Allocate(request, timeout=60)).allocation
                if is_bound is not None:
                    ports = [(p.name, pb.Protocol.Name(p.protocol)[9:], p.host_port) for p in claim.ports]
                    node = self._node_for(request, [number for _, _, number in ports]) if is_bound else ""
                    self._store(claim.owner.name, claim.owner.namespace, node, ports, claim=claim.id)

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))

    def _node_for(self, request: pb.AllocateRequest, numbers: list[int]) -> str:
        """What a scheduler would do: a node of the pool where the numbers are free."""
        if request.constraints.node_name:
            return request.constraints.node_name
        pool = request.constraints.node_selector["pool"]
        nodes = [name for name in self.names if self.pool(name) == pool]
        self.chance.shuffle(nodes)
        return next((n for n in nodes if not any((n, number) in self._taken for number in numbers)), "")

    async def _lease(self, stub: pb_grpc.AllocatorServiceAsyncStub) -> None:
        """Relays lease blocks of ports on every third node."""
        for number, node in enumerate(self.names[::3]):
            lease = await stub.Allocate(
                pb.AllocateRequest(
                    owner=pb.Owner(kind="Relay", namespace="media", name=f"rtp-{number}", description="RTP relay"),
                    policy=pb.POLICY_DYNAMIC,
                    range=pb.PortRange(min=7096, max=7127),
                    ports=[pb.PortRequest(name=f"rtp{n}", protocol=pb.PROTOCOL_UDP) for n in range(4)],
                    constraints=pb.NodeConstraints(node_name=node),
                    ttl=Duration(seconds=self.chance.randrange(300, 6000)),
                ),
                timeout=60,
            )
            self._taken.update((node, port.host_port) for port in lease.allocation.ports)

    async def _refusals(self, stub: pb_grpc.AllocatorServiceAsyncStub) -> None:
        """Two mistakes as people make them."""
        taken = self._request("games", "lobby-0", "lobby", pb.POLICY_PASSTHROUGH, [("web", 7443)], node=self.names[0])
        nameless = self._request("data", "", "store", pb.POLICY_INDEX, [("client", 9042)])
        nameless.owner.generate_name = "ingest-77c9-"
        for request in (taken, nameless):
            try:
                await stub.Allocate(request, timeout=60)
            except grpc.aio.AioRpcError:
                continue
            raise AssertionError("this was to be refused")
