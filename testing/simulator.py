"""A cluster of size, and how long it takes to know it: for `make bench`, not for `make test`.

    with serving(nodes=5_000, pods=150_000) as url:
        print(measure(url))

The server is a process of its own that makes its answers from templates as they are asked for: pages of 500 with
continue tokens, then watches on which `--events` Pods a second change. A fifth of the Pods have a host port. The bare
client of the comparison downloads the same pages, one after the other, and looks only for the continue token.

It speaks JSON and protobuf, and the bare client downloads both. A template costs the server next to nothing, a real API
server has to encode: kube-apiserver 1.36 took 25 to 35 ms for a page of 500 such Pods in JSON on two cores, and a third
of that in protobuf. `--page-seconds 0.025` gives that time to every page; without it the figures say what we cost
beside a mere copy of bytes.

Alone, this prints one line of JSON:

    python -m testing.simulator [--nodes N] [--pods N] [--page-seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from testing.clock import FunctionClock

CHECKOUT = Path(__file__).resolve().parents[1]
VERSION = 1_000_000
ONE_IN = 5  # Pods with a host port
POD_BYTES = 4_600
NODE_BYTES = 9_000
PROTOBUF = "application/vnd.kubernetes.protobuf"
PROTOBUF_SHARE = 1 / 3  # of the time that a page in JSON takes


@dataclass(frozen=True)
class Figures:
    """What a measurement gives: seconds, and bytes of resident memory."""

    bare_seconds: float  # in JSON; from the start of the process, imports included
    bare_protobuf_seconds: float
    synced_seconds: float
    idle_bytes: int  # after the imports, before the first byte
    synced_bytes: int
    bytes_per_holding_pod: float  # if the other Pods cost nothing
    holding_pods: int
    other_pods: int


# -- the server


def pod_bytes(number: int, version: int = VERSION, *, nodes: int, one_in: int = ONE_IN) -> bytes:
    """A Pod as the API server prints it; one in `one_in` has a host port, none where that is 0."""
    start, middle, end = _POD_TEMPLATE
    each = one_in or 1
    host = f'"hostPort":{20000 + number // nodes // each},' if one_in and number % one_in == 0 else ""
    return b"".join(
        (
            start,
            f'"name":"web-{number}","namespace":"team-{number % 200}","uid":"00000000-0000-4000-8000-{number:012d}",'
            f'"resourceVersion":"{version}","generateName":"web-",'.encode(),
            middle,
            f'"nodeName":"node-{number // each % nodes}","containers":[{{"name":"c","image":"registry/app:1","ports":'
            f'[{{"name":"web",{host}"containerPort":8080,"protocol":"TCP"}}]}}],'.encode(),
            end,
        )
    )


def node_bytes(number: int) -> bytes:
    start, end = _NODE_TEMPLATE
    return start + f'"name":"node-{number}","uid":"n-{number}","resourceVersion":"{VERSION}",'.encode() + end


def _pod_template() -> tuple[bytes, bytes, bytes]:
    middle = (
        '"creationTimestamp":"2026-11-01T00:00:00Z","labels":{"app":"web","pod-template-hash":"5d4f8c7b9"},'
        '"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"rs","controller":true}]},'
        '"spec":{"serviceAccountName":"default","restartPolicy":"Always","tolerations":['
        '{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},'
        '{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],'
    )
    fields: dict[str, Any] = {f"f:field-{n}": {"f:name": {}, "f:value": {"f:fieldRef": {}}} for n in range(20)}
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-01T00:00:00Z", "lastProbeTime": None}
    container = {"name": "c", "ready": True, "imageID": "sha256:" + "0" * 64, "state": {"running": {"startedAt": "x"}}}
    end = {
        "volumes": [{"name": f"v{n}", "projected": {"sources": [{"configMap": {"name": "c"}}]}} for n in range(3)],
        "managed": fields,
    }
    status = {"phase": "Running", "conditions": [condition] * 5, "containerStatuses": [container] * 2}
    tail = json.dumps(end, separators=(",", ":"))[1:] + ',"status":' + json.dumps(status, separators=(",", ":")) + "}"
    start = '{"metadata":{'
    padding = "x" * max(0, POD_BYTES - len(start) - len(middle) - len(tail) - 300)
    return start.encode(), middle.encode(), f'"padding":"{padding}",{tail}'.encode()


def _node_template() -> tuple[bytes, bytes]:
    images = [{"names": [f"registry/image-{n}@sha256:" + "0" * 64], "sizeBytes": 1} for n in range(60)]
    status = {"capacity": {"cpu": "64"}, "images": images, "padding": "x" * (NODE_BYTES - 7_800)}
    end = '"labels":{"kubernetes.io/os":"linux","topology.kubernetes.io/zone":"a"}},"spec":{},"status":'
    return b'{"metadata":{', (end + json.dumps(status, separators=(",", ":")) + "}").encode()


_POD_TEMPLATE = _pod_template()
_NODE_TEMPLATE = _node_template()


class Server:
    """Answers lists and watches of nodes, pods, namespaces and services; there are none of the last two."""

    def __init__(self, nodes: int, pods: int, *, events: float, page_seconds: float, one_in: int) -> None:
        self._nodes = nodes
        self._sizes = {"nodes": nodes, "pods": pods, "namespaces": 0, "services": 0}
        self._events = events
        self._page_seconds = page_seconds
        self._one_in = one_in
        self._version = VERSION
        from testing import templates  # what the bare client does not need costs it nothing

        self._templates = templates
        self._binary_pods, self._binary_nodes = templates.Pods(), templates.Nodes()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/v1/{resource}", self._serve)
        app.router.add_get("/told", self._told)
        return app

    async def _told(self, _: web.Request) -> web.Response:
        """How many changes have been told."""
        return web.Response(text=str(self._version - VERSION))

    def _binary_item(self, resource: str, number: int) -> bytes:
        if resource == "nodes":
            return self._binary_nodes.item(number, VERSION)
        return self._binary_pods.item(number, VERSION, **self._place(number))

    def _place(self, number: int) -> dict[str, int]:
        """The node and the host port of a Pod, as in JSON."""
        each = self._one_in or 1
        has_port = self._one_in and number % self._one_in == 0
        port = 20000 + number // self._nodes // each if has_port else 0
        return {"node": number // each % self._nodes, "port": port}

    def _item(self, resource: str, number: int) -> bytes:
        if resource == "nodes":
            return node_bytes(number)
        return pod_bytes(number, nodes=self._nodes, one_in=self._one_in)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info["resource"]
        if request.query.get("watch"):
            return await self._watch(request, resource)
        is_binary = _is_binary(request)
        await asyncio.sleep(self._page_seconds * (PROTOBUF_SHARE if is_binary else 1))
        start, limit = int(request.query.get("continue") or 0), int(request.query["limit"])
        end = min(start + limit, self._sizes[resource])
        if is_binary:
            binary_items = [self._binary_item(resource, number) for number in range(start, end)]
            token = str(end) if end < self._sizes[resource] else ""
            body = self._templates.page(resource.rstrip("s").capitalize(), self._version, token, binary_items)
            return web.Response(body=body, content_type=PROTOBUF)
        rest = f',"continue":"{end}"' if end < self._sizes[resource] else ""
        head = f'{{"kind":"List","metadata":{{"resourceVersion":"{self._version}"{rest}}},"items":['.encode()
        items = b",".join([self._item(resource, number) for number in range(start, end)])
        return web.Response(body=head + items + b"]}", content_type="application/json")

    async def _watch(self, request: web.Request, resource: str) -> web.StreamResponse:
        is_binary = _is_binary(request)
        content_type = f"{PROTOBUF};stream=watch" if is_binary else "application/json"
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.enable_chunked_encoding()
        await response.prepare(request)
        is_probe = int(request.query["timeoutSeconds"]) < 10
        begin, told = time.monotonic(), 0
        while not is_probe and resource == "pods" and self._events:
            await asyncio.sleep(0.01)
            due = int((time.monotonic() - begin) * self._events) - told
            told += due
            await response.write(b"".join([self._change(is_binary=is_binary) for _ in range(due)]))
        if not is_probe:
            await asyncio.sleep(3600)
        mark = f'{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{self._version}"}}}}}}\n'
        await response.write(self._templates.bookmark(self._version) if is_binary else mark.encode())
        return response

    def _change(self, *, is_binary: bool) -> bytes:
        self._version += 1
        number = random.randrange(self._sizes["pods"])
        if is_binary:
            return self._binary_pods.change(number, self._version, **self._place(number))
        pod = pod_bytes(number, self._version, nodes=self._nodes, one_in=self._one_in)
        return b'{"type":"MODIFIED","object":' + pod + b"}\n"


def _is_binary(request: web.Request) -> bool:
    return request.headers.get("Accept", "").startswith(PROTOBUF)


async def _serve(arguments: argparse.Namespace) -> None:
    rates = {"events": arguments.events, "page_seconds": arguments.page_seconds}
    server = Server(arguments.nodes, arguments.pods, one_in=arguments.one_in, **rates)
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


@contextmanager
def serving(
    *, nodes: int = 5_000, pods: int = 150_000, events: float = 0.0, page_seconds: float = 0.0, one_in: int = ONE_IN
) -> Iterator[str]:
    """A server in a process of its own; its URL. `events`: changes of Pods a second on each watch."""
    sizes = (f"--nodes={nodes}", f"--pods={pods}", f"--one-in={one_in}")
    flags = (*sizes, f"--events={events}", f"--page-seconds={page_seconds}")
    with subprocess.Popen([*_SELF, "serve", *flags], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


# -- the measurement, each in a process of its own


# Of JSON, and of protobuf: the tag of the field, the length, the token.
TOKENS = {"application/json": rb'"continue":"(\d+)"', PROTOBUF: rb"\x1a.(\d+)"}


async def _bare(url: str, accept: str) -> dict[str, float]:
    headers = {"Accept-Encoding": "identity", "Accept": accept}
    async with ClientSession(read_bufsize=2**21, headers=headers) as session:
        for resource in ("nodes", "pods"):
            token = ""
            while True:
                page = f"{url}/api/v1/{resource}?limit=500" + (f"&continue={token}" if token else "")
                async with session.get(page) as response:
                    body = await response.read()
                found = re.search(TOKENS[accept], body[:120])
                if not found:
                    break
                token = found[1].decode()
    return {"seconds": time.time() - _process_start()}


async def start(url: str) -> dict[str, float]:
    """The whole allocator but for its servers: engine, ledger, an empty journal, the source."""
    from hostport import process

    process.collect_seldom()
    from kubernetes.aio.client.configuration import Configuration

    import allocator.app.lifecycle  # noqa: F401 - what the program imports counts
    from allocator.app.build import Collaborators, build
    from allocator.cluster.client import ApiClient
    from allocator.cluster.credentials import Loaded
    from allocator.cluster.kubernetes import KubernetesCluster
    from allocator.core.admission import LedgerRules
    from allocator.core.ledger import Ledger
    from allocator.journal.memory import MemoryJournal

    async def load() -> Loaded:
        return Loaded(Configuration(host=url))

    engine = build(
        Collaborators(ledger=Ledger(LedgerRules()), journal=MemoryJournal(), clock=FunctionClock(time.time))
    ).engine
    idle = _resident()
    client = ApiClient(load)
    cluster = KubernetesCluster(client)
    running = asyncio.create_task(cluster.run(engine.maintenance))
    await cluster.synced()
    seconds, synced = time.time() - _process_start(), _resident()
    holding = len(engine.maintenance.known_pods())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()
    return {"seconds": seconds, "idle": idle, "synced": synced, "holding": holding}


def measure(url: str, *, pods: int = 150_000) -> Figures:
    """All three, one after the other."""
    bare, bare_protobuf, ours = (_run(which, url) for which in ("bare", "bare-protobuf", "ours"))
    grown = ours["synced"] - ours["idle"]
    return Figures(
        bare_seconds=bare["seconds"],
        bare_protobuf_seconds=bare_protobuf["seconds"],
        synced_seconds=ours["seconds"],
        idle_bytes=int(ours["idle"]),
        synced_bytes=int(ours["synced"]),
        bytes_per_holding_pod=grown / max(1, ours["holding"]),
        holding_pods=int(ours["holding"]),
        other_pods=pods - int(ours["holding"]),
    )


def _run(which: str, url: str) -> dict[str, float]:
    done = subprocess.run([*_SELF, which, f"--url={url}"], stdout=subprocess.PIPE, text=True, check=True, cwd=CHECKOUT)
    result: dict[str, float] = json.loads(done.stdout)
    return result


MEASURED: dict[str, Callable[[str], Coroutine[Any, Any, dict[str, float]]]] = {
    "bare": partial(_bare, accept="application/json"),
    "bare-protobuf": partial(_bare, accept=PROTOBUF),
    "ours": start,
}
_SELF = (sys.executable, "-m", "testing.simulator")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _process_start() -> float:
    """When this process began, in seconds since the epoch."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="?", default="measure", choices=["measure", "serve", *MEASURED])
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument("--pods", type=int, default=150_000)
    parser.add_argument("--one-in", type=int, default=ONE_IN)
    parser.add_argument("--events", type=float, default=0.0)
    parser.add_argument("--page-seconds", type=float, default=0.0)
    parser.add_argument("--url", default="")
    arguments = parser.parse_args()
    if arguments.which == "serve":
        asyncio.run(_serve(arguments))
        return
    result: Any
    if arguments.which == "measure":
        page_seconds, one_in = arguments.page_seconds, arguments.one_in
        with serving(nodes=arguments.nodes, pods=arguments.pods, page_seconds=page_seconds, one_in=one_in) as url:
            result = asdict(measure(url, pods=arguments.pods))
    else:
        result = asyncio.run(MEASURED[arguments.which](arguments.url))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
