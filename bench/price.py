"""What we cost the API server for each Pod of the cluster, whether it asks for ports or not.

One control plane with its own scheduler and controllers, which watch Pods in protobuf as those of any cluster do. On it
take turns: nothing; a null webhook behind the entry that new Pods meet, with no watch; ours as installed, with all
entries and policies, a shim, and an allocator that follows the cluster.

Rules:

* Turns are short, and each round has them all: what the machine does changes within a minute by a third. A row is the
  median of the ratios of neighbours. They are long enough for some collections of the API server's garbage, of which
  one takes as much as a hundred creations.
* Each has a namespace of its own, to which its entries and policies are bound. Who is not measured has no watch: its
  allocator is ended, as one that is merely stopped has a watch that fills.
* CPU is that of the whole process, over a fixed number of creations.
* Nobody schedules the Pods: bindings and statuses are further events, with the price of an event.

Needs KUBEBUILDER_ASSETS or Go, as `make e2e` does; no row without.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from bench.measure import Row, Sample, median
from bench.options import Options
from bench.pods import MET_FIRST, NODES, pod
from bench.processes import CHECKOUT, free_address, load, server
from bench.rpc import allocator

sys.path.insert(0, str(CHECKOUT / "tests"))

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

Costs = dict[str, float]
"""CPU for a creation by process, in µs."""

Running = Callable[[], AbstractContextManager[Mapping[str, int]]]
"""What runs during a turn alone; gives its processes: names and pids."""


@dataclass(slots=True)
class Field:
    """The cluster. `running`: by namespace."""

    plane: ControlPlane
    admin: KeyPair
    serving: KeyPair
    folder: Path
    serial: Iterator[int]
    running: dict[str, Running]


def price(options: Options) -> list[Row]:
    try:
        binaries = locate()
    except (Unavailable, Broken) as error:
        print(f"price: {error}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        folder = Path(name)
        (folder / "plane").mkdir()
        with control_plane(binaries, folder / "plane", nodes=()) as plane, ExitStack() as stack:
            field = prepared(plane, folder)
            install(field, stack)
            reports = turns(field, (NONE, NULL, OURS), options.rounds * ROUNDS_OF_EACH)
            return list(_rows(reports))


def prepared(plane: ControlPlane, folder: Path) -> Field:
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
    return Field(plane, admin, serving, folder, count(1), {})


def install(field: Field, stack: ExitStack) -> None:
    """All that takes turns."""
    address, shim = free_address(), ("shim", "serve", "--http=127.0.0.1:0")
    entries = yaml.safe_load((BASE / "webhook.yaml").read_text())["webhooks"]
    new_arm(field, NONE)
    first = [each for each in entries if each["name"] == MET_FIRST]
    pid = new_arm(field, NULL, first, stack, "bench.null_webhook")
    field.running[NULL] = lambda: nullcontext({"webhook": pid})
    front = new_arm(field, OURS, entries, stack, *shim, f"--allocator={address}")
    bind_policies(field, [OURS])

    @contextmanager
    def ours() -> Iterator[Mapping[str, int]]:
        flags = ("--cluster=kubernetes", f"--kubeconfig={field.plane.kubectl.kubeconfig}")
        with allocator("sqlite", *flags, address=address) as (_, back):
            yield {"shim": front, "allocator": back.pid}

    field.running[OURS] = ours
    time.sleep(SETTLING_SECONDS)


def new_arm(
    field: Field, which: str, entries: Sequence[dict[str, Any]] = (), stack: ExitStack | None = None, *command: str
) -> int:
    """A namespace, and a webhook that is asked by these entries for it alone; its pid."""
    create_namespace(field.plane, which)
    field.running[which] = lambda: nullcontext({})
    if stack is None:
        return 0
    tls, address = field.serving, free_address()
    flags = (f"--listen={address}", f"--tls-cert={tls.cert}", f"--tls-key={tls.key}")
    process = stack.enter_context(server(field.folder, *command, *flags))
    process.wait_for(address)
    reached = {"url": f"https://{address}/mutate", "caBundle": field.plane.pki.ca_bundle}
    selected = {"matchLabels": {"kubernetes.io/metadata.name": which}}
    webhooks = [each | {"clientConfig": reached, "namespaceSelector": selected} for each in entries]
    field.plane.api.ask("POST", CONFIGURATIONS, {"metadata": {"name": f"bench-{which}"}, "webhooks": webhooks})
    return process.pid


def bind_policies(field: Field, namespaces: list[str]) -> None:
    """What the installation makes the API server itself check, for some namespaces."""
    where = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces}
    documents = list(yaml.safe_load_all((BASE / "admission-policies.yaml").read_text()))
    for each in documents:
        if each["kind"].endswith("Binding"):
            each["spec"].setdefault("matchResources", {})["namespaceSelector"] = {"matchExpressions": [where]}
    field.plane.kubectl.apply(*documents)


def turns(field: Field, arms: Sequence[str], rounds: int) -> dict[tuple[str, str], list[Costs]]:
    """Costs by arm and kind of Pod; every second round goes the other way round. The first one is not counted."""
    reports: dict[tuple[str, str], list[Costs]] = {(arm, which): [] for arm in arms for which in (ASKS, DOES_NOT)}
    for number in range(rounds + 1):
        for arm in arms[:: -1 if number % 2 else 1]:
            with field.running[arm]() as processes:
                for which in (ASKS, DOES_NOT):
                    reports[arm, which].append(_measure(field, arm, which, processes))
        for arm in arms:
            field.plane.api.ask("DELETE", _pods(arm), {"gracePeriodSeconds": 0}, timeout=60)
        time.sleep(SETTLING_SECONDS)  # the cluster's controllers look after what is gone
    return {key: costs[1:] for key, costs in reports.items()}


def _measure(field: Field, arm: str, which: str, processes: Mapping[str, int]) -> Costs:
    pids = {API_SERVER: field.plane.server.pid, "etcd": field.plane.etcd_server.pid, **processes}
    before = {name: _cpu_ns(pid) for name, pid in pids.items()}
    load(
        *(f"--address={field.plane.api.base.removeprefix('https://')}", f"--path={_pods(arm)}"),
        *(f"--body={field.folder / f'{which}.json'}", f"--ca={field.plane.pki.ca}", "--created"),
        *("--client", str(field.admin.cert), str(field.admin.key), f"--concurrency={CLIENTS}"),
        *(f"--first={next(field.serial) * 1_000_000}", f"--requests={CREATIONS}"),
    )
    return {name: (_cpu_ns(pid) - before[name]) / CREATIONS / 1000 for name, pid in pids.items()}


def _pods(arm: str) -> str:
    return f"/api/v1/namespaces/{arm}/pods"


def _cpu_ns(pid: int) -> int:
    """CPU of all threads, in ns."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _rows(reports: dict[tuple[str, str], list[Costs]]) -> Iterator[Row]:
    for which, over, aim in ((DOES_NOT, NONE, "≤ 1.05"), (ASKS, NULL, "≤ 1.35"), (ASKS, NONE, "")):
        mine, bare = ([Sample(each[API_SERVER] / 1000) for each in reports[arm, which]] for arm in (OURS, over))
        beside = "; ".join(f"{arm}: {_told(reports[arm, which])}" for arm in (OURS, NULL, NONE))
        what = f"API server CPU for a Pod that {which.replace('-', ' ')}, over "
        what += "the null webhook" if over == NULL else "nothing"
        yield Row(bench="price", what=what, unit="ms", ours=mine, bare=bare, aim=aim, beside=beside, is_paired=True)


def _told(costs: list[Costs]) -> str:
    """All processes of an arm."""
    return ", ".join(f"{name} {median([Sample(each[name]) for each in costs]):,.0f} µs" for name in costs[0])
