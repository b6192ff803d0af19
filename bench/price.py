"""What we cost the API server for each Pod of the cluster, whether it asks for ports or not.

One control plane with its own scheduler and controllers, which watch Pods in protobuf as those of any cluster do. On it
take turns: nothing installed; a null webhook behind the entry that new Pods meet, with no watch; ours as it is installed,
with all entries and policies, a shim, and an allocator that follows the cluster.

Rules:

* Each turn installs what it measures and takes it away again: a process that is merely stopped has a watch that fills.
* CPU is that of the whole process over a fixed number of creations, by four clients. Its Pods are deleted after each
  turn, so that all turns find the same cluster.
* Nobody schedules the Pods: an event of a binding, or of a status, is an update that has the price of its own watch
  events, and is the same for all.

Needs KUBEBUILDER_ASSETS or Go, as `make e2e` does; no row without.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from bench.measure import Row, Sample, median
from bench.options import Options
from bench.pods import CHECKOUT, MET_FIRST, NODES, pod
from bench.processes import cpu_seconds, free_address, load, server
from bench.rpc import allocator

sys.path.insert(0, str(CHECKOUT / "tests"))

from e2e.binaries import Broken, Unavailable, locate
from e2e.control_plane import ControlPlane, control_plane, create_namespace
from e2e.pki import KeyPair

CLIENTS = 4
WARM_UP, CREATIONS = 150, 800
NAMESPACE = "price"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SETTLING_SECONDS = 2.0
"""The API server reads policies anew each second, and compiles what is new."""
NONE, NULL, OURS = "nothing", "null webhook", "ours"
ASKS, DOES_NOT = "a Pod that asks", "a Pod that does not ask"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
POLICIES = CHECKOUT / "deploy" / "base" / "admission-policies.yaml"
WEBHOOKS = CHECKOUT / "deploy" / "base" / "webhook.yaml"

Costs = dict[str, float]
"""CPU for a creation by process, in µs, and what was seen beside it."""


@dataclass(slots=True)
class Field:
    """The cluster."""

    plane: ControlPlane
    admin: KeyPair
    serving: KeyPair  # of the webhooks
    folder: Path
    serial: Iterator[int]


Installed = Callable[[Field], AbstractContextManager[dict[str, int]]]
"""Installs something until the block ends; gives the processes that belong to it: names and pids."""


def price(options: Options) -> list[Row]:
    try:
        binaries = locate()
    except (Unavailable, Broken) as error:
        print(f"price: {error}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        folder = Path(name)
        (folder / "plane").mkdir()
        with control_plane(binaries, folder / "plane", nodes=()) as plane:
            return list(_rows(_prepared(plane, folder), options))


def _prepared(plane: ControlPlane, folder: Path) -> Field:
    create_namespace(plane, NAMESPACE)
    for number in range(NODES):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"}}
        plane.api.ask("POST", "/api/v1/nodes", node)
    for which, asks in ((ASKS, True), (DOES_NOT, False)):
        body = pod()
        body["spec"]["schedulerName"] = "nobody"
        if not asks:
            del body["metadata"]["annotations"]
        (folder / f"{which}.json").write_text(json.dumps(body))
    admin, serving = plane.pki.client("bench", group="system:masters"), plane.pki.server("webhook")
    return Field(plane, admin, serving, folder, count(1))


def _rows(field: Field, options: Options) -> Iterator[Row]:
    reports = turns(field, {NONE: nothing, NULL: null, OURS: ours}, options.rounds)
    for which, over, aim in ((DOES_NOT, NONE, "≤ 1.05"), (ASKS, NULL, "≤ 1.35"), (ASKS, NONE, "")):
        mine, bare = (
            [Sample(each["API server"] / 1000) for each in reports[arm, which]] for arm in (OURS, over)
        )
        beside = "; ".join(f"{arm}: {_told(reports[arm, which])}" for arm in (OURS, NULL, NONE))
        what = f"API server CPU for {which}, ours over {'the null webhook' if over == NULL else 'nothing installed'}"
        yield Row(bench="price", what=what, unit="ms", ours=mine, bare=bare, aim=aim, beside=beside)


def _told(costs: list[Costs]) -> str:
    """All processes of an arm."""
    return ", ".join(f"{name} {median([Sample(each[name]) for each in costs]):,.0f} µs" for name in costs[0])


def turns(field: Field, arms: dict[str, Installed], rounds: int) -> dict[tuple[str, str], list[Costs]]:
    """Costs by arm and kind of Pod; every second round goes the other way round."""
    reports: dict[tuple[str, str], list[Costs]] = {(arm, which): [] for arm in arms for which in (ASKS, DOES_NOT)}
    for number in range(rounds):
        for arm in list(arms)[:: -1 if number % 2 else 1]:
            with arms[arm](field) as processes:
                time.sleep(SETTLING_SECONDS)
                for which in (ASKS, DOES_NOT):
                    reports[arm, which].append(_measure(field, which, processes))
            field.plane.api.ask("DELETE", PODS, {"gracePeriodSeconds": 0}, timeout=60)
    return reports


def _measure(field: Field, which: str, processes: dict[str, int]) -> Costs:
    _create(field, which, WARM_UP)
    pids = {"API server": field.plane.server.pid, "etcd": field.plane.etcd_server.pid, **processes}
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    _create(field, which, CREATIONS)
    return {name: 1e6 * (cpu_seconds(pid) - before[name]) / CREATIONS for name, pid in pids.items()}


def _create(field: Field, which: str, requests: int) -> dict[str, float]:
    return load(
        *(f"--address={field.plane.api.base.removeprefix('https://')}", f"--path={PODS}"),
        *(f"--body={field.folder / f'{which}.json'}", f"--ca={field.plane.pki.ca}", "--created"),
        *("--client", str(field.admin.cert), str(field.admin.key), f"--concurrency={CLIENTS}"),
        *(f"--first={next(field.serial) * 1_000_000}", f"--requests={requests}"),
    )


# -- what takes turns


@contextmanager
def nothing(_: Field) -> Iterator[dict[str, int]]:
    """Nothing."""
    yield {}


@contextmanager
def null(field: Field) -> Iterator[dict[str, int]]:
    """A webhook that answers a constant patch, behind the entry that new Pods meet."""
    with _webhook(field, (MET_FIRST,), "bench.null_webhook") as pid:
        yield {"webhook": pid}


@contextmanager
def ours(field: Field) -> Iterator[dict[str, int]]:
    """The installation."""
    flags = ("--cluster=kubernetes", f"--kubeconfig={field.plane.kubectl.kubeconfig}")
    with (
        allocator("sqlite", *flags) as (address, back),
        _webhook(field, (), "shim", "serve", "--http=127.0.0.1:0", f"--allocator={address}") as pid,
        _applied(field, POLICIES),
    ):
        yield {"shim": pid, "allocator": back.pid}


@contextmanager
def _webhook(field: Field, entries: tuple[str, ...], *command: str) -> Iterator[int]:
    """A webhook and its configuration as it is installed, with these entries (none named: all); its pid."""
    tls, address = field.serving, free_address()
    flags = (f"--listen={address}", f"--tls-cert={tls.cert}", f"--tls-key={tls.key}")
    with ExitStack() as stack:
        process = stack.enter_context(server(field.folder, *command, *flags))
        process.wait_for(address)
        configuration = yaml.safe_load(WEBHOOKS.read_text())
        if entries:
            configuration["webhooks"] = [each for each in configuration["webhooks"] if each["name"] in entries]
        for webhook in configuration["webhooks"]:
            webhook["clientConfig"] = {"url": f"https://{address}/mutate", "caBundle": field.plane.pki.ca_bundle}
        field.plane.api.ask("POST", CONFIGURATIONS, configuration)
        name = configuration["metadata"]["name"]
        stack.callback(field.plane.api.ask, "DELETE", f"{CONFIGURATIONS}/{name}")
        yield process.pid


@contextmanager
def _applied(field: Field, manifest: Path) -> Iterator[None]:
    documents: list[Any] = list(yaml.safe_load_all(manifest.read_text()))
    field.plane.kubectl.apply(*documents)
    try:
        yield
    finally:
        field.plane.kubectl("delete", "-f", str(manifest))
