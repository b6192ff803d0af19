"""What we cost the API server for each Pod of the cluster, whether it asks for ports or not.

One control plane with its own scheduler and controllers, which watch Pods in protobuf as those of any cluster do. On it
take turns: nothing; a null webhook behind the entry that new Pods meet, with no watch; ours as installed, with all
entries and policies, a shim, and an allocator that follows the cluster.

Rules:

* Turns are short, and each round has them all: what the machine does changes within a minute by a third. A row is the
  median of the ratios of neighbours.
* No garbage of the API server is collected in a turn: one collection takes as much as several hundred creations, and
  whether one falls into a turn decided more than what the turn was about. So the API server collects when it is told
  to, before each turn. What a creation leaves is counted in bytes, and stands in the price with what it takes to
  collect them: by default Go collects once for as many bytes as live on.
* Each has a namespace of its own, to which its entries and policies are bound. Who is not measured has no watch: its
  allocator is ended, as one that is merely stopped has a watch that fills.
* CPU is that of the whole process, over a fixed number of creations. The connections that a webhook accepts are
  counted: a handshake takes both sides as much as a call.
* Nobody schedules the Pods: bindings and statuses are further events, with the price of an event.

Needs KUBEBUILDER_ASSETS or Go, as `make e2e` does; no row without.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from bench.measure import Row, Sample
from bench.options import Options
from bench.pods import MET_FIRST, NODES, pod
from bench.processes import CHECKOUT, ProcessError, Server, cpu_ns, free_address, load, server
from bench.rpc import allocator

sys.path.insert(0, str(CHECKOUT / "tests"))

from e2e.api import Https
from e2e.binaries import Broken, Unavailable, locate
from e2e.control_plane import ControlPlane, control_plane, create_namespace
from e2e.pki import KeyPair

CLIENTS, CREATIONS = 4, 400
ROUNDS_OF_EACH = 3
"""Rounds here for each that is asked for: they are short."""
SETTLING_SECONDS = 3.0
"""The API server reads policies anew each second, and compiles what is new."""
NONE, NULL, OURS = "nothing", "null", "ours"
ASKS, DOES_NOT = "asks", "does-not-ask"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
BASE = CHECKOUT / "deploy" / "base"
API_SERVER = "API server"
HEAP = "/debug/pprof/heap?debug=1"

Running = Callable[[], AbstractContextManager[Mapping[str, int]]]
"""What runs during a turn alone; gives its processes: names and pids."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What some creations took, each. `cpu`: µs by process, without the API server's garbage, which is in bytes.

    `accepted`: connections of the webhook, in the whole turn.
    """

    cpu: dict[str, float]
    garbage: float
    accepted: int


@dataclass(frozen=True, slots=True)
class Heap:
    """The API server's memory after a collection, in bytes: all that was ever taken, and what lives."""

    taken: int
    live: int


@dataclass(slots=True)
class Field:
    """The cluster. `running`, `accepted`: by namespace. `collecting`: ns of CPU to collect a byte, round for round.

    `shim`, `allocator`: where ours listen.
    """

    plane: ControlPlane
    admin: KeyPair
    serving: KeyPair
    folder: Path
    stack: ExitStack
    serial: Iterator[int]
    running: dict[str, Running] = field(default_factory=dict)
    accepted: dict[str, Callable[[], int]] = field(default_factory=dict)
    collecting: list[float] = field(default_factory=list)
    shim: str = ""
    allocator: str = field(default_factory=free_address)

    @contextmanager
    def following(self) -> Iterator[Mapping[str, int]]:
        """An allocator that follows the cluster."""
        flags = ("--cluster=kubernetes", f"--kubeconfig={self.plane.kubectl.kubeconfig}")
        with allocator("sqlite", *flags, address=self.allocator) as (_, back):
            yield {"allocator": back.pid}


def price(options: Options) -> list[Row]:
    with opened("price") as there:
        if there is None:
            return []
        arms = dict.fromkeys((NONE, NULL, OURS), (ASKS, DOES_NOT))
        reports = turns(there, arms, options.rounds * ROUNDS_OF_EACH)
        return list(_rows(reports, statistics.median(there.collecting)))


@contextmanager
def opened(bench: str) -> Iterator[Field | None]:
    """The cluster, with all that takes turns in `price`. None: there are no programs for one."""
    try:
        binaries = locate()
    except (Unavailable, Broken) as error:
        print(f"{bench}: {error}", file=sys.stderr)
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "plane").mkdir()
        environ = {**os.environ, "GOGC": "off"}
        plane = control_plane(binaries, folder / "plane", nodes=(), api_server_environ=environ)
        there = prepared(stack.enter_context(plane), folder, stack)
        install(there)
        yield there


def prepared(plane: ControlPlane, folder: Path, stack: ExitStack) -> Field:
    """Nodes, and the bodies of the two kinds of Pods."""
    for number in range(NODES):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"}}
        plane.api.ask("POST", "/api/v1/nodes", node)
    for which in (ASKS, DOES_NOT):
        body = pod()
        body["spec"]["schedulerName"] = "nobody"
        if which == DOES_NOT:
            del body["metadata"]["annotations"]
        (folder / f"{which}.json").write_text(json.dumps(body))
    admin, serving = plane.pki.client("bench", group="system:masters"), plane.pki.server("webhook")
    return Field(plane, admin, serving, folder, stack, count(1))


def install(there: Field) -> None:
    """All that takes turns."""
    http = free_address()
    shim = ("shim", "serve", f"--http={http}", f"--allocator={there.allocator}")
    entries = yaml.safe_load((BASE / "webhook.yaml").read_text())["webhooks"]
    bare_arm(there, NONE, lambda: nullcontext({}))
    first = [each for each in entries if each["name"] == MET_FIRST]
    null, _ = new_arm(there, NULL, first, "bench.null_webhook")
    there.running[NULL] = lambda: nullcontext({"webhook": null.pid})
    front, there.shim = new_arm(there, OURS, entries, *shim)
    front.http = http
    there.accepted[OURS] = lambda: int(front.metric("hostport_shim_connections_total"))
    bind_policies(there, [OURS])

    @contextmanager
    def ours() -> Iterator[Mapping[str, int]]:
        with there.following() as behind:
            yield {"shim": front.pid, **behind}

    there.running[OURS] = ours
    time.sleep(SETTLING_SECONDS)


def bare_arm(there: Field, which: str, running: Running) -> None:
    """A namespace about which nobody is asked."""
    create_namespace(there.plane, which)
    there.running[which] = running


def new_arm(there: Field, which: str, entries: Sequence[dict[str, Any]], *command: str) -> tuple[Server, str]:
    """A namespace, and a webhook that is asked by these entries for it alone. Returns its process and address."""
    create_namespace(there.plane, which)
    tls, address = there.serving, free_address()
    flags = (f"--listen={address}", f"--tls-cert={tls.cert}", f"--tls-key={tls.key}")
    process = there.stack.enter_context(server(there.folder, *command, *flags))
    process.wait_for(address)
    reached = {"url": f"https://{address}/mutate", "caBundle": there.plane.pki.ca_bundle}
    selected = {"matchLabels": {"kubernetes.io/metadata.name": which}}
    webhooks = [each | {"clientConfig": reached, "namespaceSelector": selected} for each in entries]
    there.plane.api.ask("POST", CONFIGURATIONS, {"metadata": {"name": f"bench-{which}"}, "webhooks": webhooks})
    told = Https(f"https://{address}", there.plane.pki.trusting(there.admin))
    asked = count(1)  # each of these is a connection too
    there.accepted[which] = lambda: int(told.ask("GET", "/accepted").text) - next(asked)
    return process, address


def bind_policies(there: Field, namespaces: list[str]) -> None:
    """What the installation makes the API server itself check, for some namespaces."""
    where = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces}
    documents = list(yaml.safe_load_all((BASE / "admission-policies.yaml").read_text()))
    for each in documents:
        if each["kind"].endswith("Binding"):
            each["spec"].setdefault("matchResources", {})["namespaceSelector"] = {"matchExpressions": [where]}
    there.plane.kubectl.apply(*documents)


def turns(there: Field, arms: Mapping[str, Sequence[str]], rounds: int) -> dict[tuple[str, str], list[Turn]]:
    """Turns by arm and kind of Pod; every second round goes the other way round. The first one is not counted."""
    reports: dict[tuple[str, str], list[Turn]] = {(arm, which): [] for arm, kinds in arms.items() for which in kinds}
    for number in range(rounds + 1):
        for arm in [*arms][:: -1 if number % 2 else 1]:
            with there.running[arm]() as processes:
                for which in arms[arm]:
                    reports[arm, which].append(_measure(there, arm, which, processes))
        there.collecting.append(_collecting(there.plane))
        for arm in arms:
            there.plane.api.ask("DELETE", _pods(arm), {"gracePeriodSeconds": 0}, timeout=60)
        time.sleep(SETTLING_SECONDS)  # the cluster's controllers look after what is gone
    return {key: of_one[1:] for key, of_one in reports.items()}


def _measure(there: Field, arm: str, which: str, processes: Mapping[str, int]) -> Turn:
    pids = {API_SERVER: there.plane.server.pid, "etcd": there.plane.etcd_server.pid, **processes}
    accepted = there.accepted.get(arm, lambda: 0)
    had, first = accepted(), _collect(there.plane)
    before = {name: cpu_ns(pid) for name, pid in pids.items()}
    load(
        *(f"--address={there.plane.api.base.removeprefix('https://')}", f"--path={_pods(arm)}"),
        *(f"--body={there.folder / f'{which}.json'}", f"--ca={there.plane.pki.ca}", "--created"),
        *("--client", str(there.admin.cert), str(there.admin.key), f"--concurrency={CLIENTS}"),
        *(f"--first={next(there.serial) * 1_000_000}", f"--requests={CREATIONS}"),
    )
    cpu = {name: (cpu_ns(pid) - before[name]) / CREATIONS / 1000 for name, pid in pids.items()}
    return Turn(cpu, (_collect(there.plane).taken - first.taken) / CREATIONS, accepted() - had)


def _collect(plane: ControlPlane) -> Heap:
    """Has the API server collect its garbage now."""
    told = plane.api.ask("GET", f"{HEAP}&gc=1", timeout=60).text
    taken, live = (re.search(rf"^# {name} = ([0-9]+)$", told, re.MULTILINE) for name in ("TotalAlloc", "HeapAlloc"))
    if taken is None or live is None:
        raise ProcessError(f"the API server does not tell its memory: {told[:200]}")
    return Heap(int(taken[1]), int(live[1]))


def _collecting(plane: ControlPlane) -> float:
    """ns of CPU to collect a byte: what a collection takes beside the telling, for as many bytes as live on."""
    pid = plane.server.pid
    began = cpu_ns(pid)
    plane.api.ask("GET", HEAP, timeout=60)
    told = cpu_ns(pid)
    heap = _collect(plane)
    return (cpu_ns(pid) - told - (told - began)) / heap.live


def _pods(arm: str) -> str:
    return f"/api/v1/namespaces/{arm}/pods"


def price_of(turns_: Sequence[Turn], collecting: float) -> list[Sample]:
    """ms of the API server for a creation, with what it takes to collect its garbage."""
    return [Sample((each.cpu[API_SERVER] + each.garbage * collecting / 1000) / 1000) for each in turns_]


def _rows(reports: dict[tuple[str, str], list[Turn]], collecting: float) -> Iterator[Row]:
    for which, over, aim in ((DOES_NOT, NONE, "≤ 1.05"), (ASKS, NULL, "≤ 1.35"), (ASKS, NONE, "")):
        beside = "; ".join(f"{arm}: {_told(reports[arm, which], collecting)}" for arm in (OURS, NULL, NONE))
        what = f"API server CPU for a Pod that {which.replace('-', ' ')}, over "
        what += "the null webhook" if over == NULL else "nothing"
        mine, bare = (price_of(reports[arm, which], collecting) for arm in (OURS, over))
        yield Row(bench="price", what=what, unit="ms", ours=mine, bare=bare, aim=aim, beside=beside, is_paired=True)


def _told(turns_: list[Turn], collecting: float) -> str:
    """All processes of an arm, what the API server's garbage is, and the connections of a turn."""
    cpu = {name: statistics.median(each.cpu[name] for each in turns_) for name in turns_[0].cpu}
    garbage = statistics.median(each.garbage for each in turns_)
    told = [f"{name} {each:,.0f} µs" for name, each in cpu.items()]
    told[0] += f" and {garbage / 1024:,.0f} KiB of garbage, {garbage * collecting / 1000:,.0f} µs to collect"
    return ", ".join([*told, f"connections accepted in a turn {max(each.accepted for each in turns_)}"])
