"""Pods created through a real kube-apiserver: with our webhook, with a null webhook, and with none.

One API server and one etcd, no controllers and no scheduler. Each has a namespace of its own, so that they take turns
on the same server; who is not measured is stopped, and does nothing. At the end our namespace is filled, and measured
again: what is there already must not matter.

There are two null webhooks, neither of which asks anybody. One has a single entry and adds an annotation. The other
has all of our entries and policies, and answers what our shim answered once: what it needs more is the API server's.

Needs KUBEBUILDER_ASSETS or Go, as `make e2e` does; no row without.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from bench.measure import Row, Sample, median
from bench.options import Options
from bench.processes import CHECKOUT, ProcessError, Server, cpu_seconds, free_address, load, server
from bench.rpc import SERIAL, allocator
from bench.webhook import PATH, RECORDED

sys.path.insert(0, str(CHECKOUT / "tests"))

from e2e.binaries import NEEDED, Binaries, Broken, Unavailable, locate
from e2e.control_plane import ControlPlane, control_plane, create_namespace
from e2e.pki import KeyPair

CLIENTS = 16
CATCH_UP_SECONDS = 60.0
NODES = 10
OURS, NULL, ALIKE, NONE = "ours", "null", "alike", "none"
MET_FIRST = "pods.hostport.io"
RANGE = (1024, 65535)
"""As wide as can be: nobody schedules the Pods, so that each number is taken on every node. With less room the last
turns would measure the search for numbers in an exhausted range."""


@dataclass(slots=True)
class Field:
    """The API server, and what is behind the webhooks."""

    plane: ControlPlane
    admin: KeyPair
    folder: Path
    behind: dict[str, dict[str, Server]]
    serial: Iterator[int]

    def processes(self, which: str) -> dict[str, int]:
        """Who has to do with a creation: names and pids."""
        behind = {name: each.pid for name, each in self.behind[which].items()}
        return {"API server": self.plane.server.pid, "etcd": self.plane.etcd_server.pid, **behind}


def pods(options: Options) -> list[Row]:
    try:
        found = locate()
    except (Unavailable, Broken) as error:
        print(f"pods: {error}", file=sys.stderr)
        return []
    binaries = Binaries({program: found.paths[program] for program in NEEDED})
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name, _field(binaries, Path(name)) as field:
        return list(_rows(field, options))


def _rows(field: Field, options: Options) -> Iterator[Row]:
    at_16 = _turns(field, CLIENTS, options)
    alone = _turns(field, 1, options)
    rates = _rates(at_16)
    ours, null, none = (median(rates[which]) for which in (OURS, NULL, NONE))
    yield _row(
        f"Pods created through kube-apiserver, {CLIENTS} clients, over the null webhook",
        "/s",
        rates[OURS],
        rates[NULL],
        "≥ 0.7",
        f"no webhook: {none:,.0f} /s; ours {ours / none:.2f} of it, the null webhook {null / none:.2f}; generator idle"
        f" {100 * median(rates[OURS], 'idle'):.0f} %",
    )
    yield _row(
        "the same, over a null webhook with our entries, policies and patch", "/s", rates[OURS], rates[ALIKE], "", ""
    )
    yield _cpu(field, at_16, f"CPU for a creation, {CLIENTS} clients, over the null webhook")
    for quantile, aim in (("p50_ms", "≤ 2.5 ms more"), ("p99_ms", "≤ 8 ms more")):
        mine, bare, alike = ([Sample(each[quantile]) for each in alone[which]] for which in (OURS, NULL, ALIKE))
        more, theirs = (median(samples) - median(bare) for samples in (mine, alike))
        what = f"a creation by one client, {quantile.removesuffix('_ms')}, over the null webhook"
        yield _row(what, "ms", mine, bare, aim, f"{more:+.2f} ms; with our entries and patch {theirs:+.2f}")
    yield _cpu(field, alone, "CPU for a creation, one client, over the null webhook")
    made = _fill(field, options)
    full = _rates(_turns(field, CLIENTS, options, (OURS, NULL)))
    what = f"Pods created, {CLIENTS} clients, with {made:,} Pods there over the first"
    yield _row(what, "/s", full[OURS], rates[OURS], "≥ 0.9", "")
    yield _row("the same, each as a share of the null webhook's", "", _share(full), _share(rates), "≥ 0.9", "")


def _rates(reports: dict[str, list[dict[str, float]]]) -> dict[str, list[Sample]]:
    return {which: [Sample(each["rate"], each) for each in of_one] for which, of_one in reports.items()}


def _share(rates: dict[str, list[Sample]]) -> list[Sample]:
    """Free of what the machine did meanwhile, and of what the API server needs for a Pod among so many."""
    return [Sample(ours.value / null.value) for ours, null in zip(rates[OURS], rates[NULL], strict=True)]


def _cpu(field: Field, reports: dict[str, list[dict[str, float]]], what: str) -> Row:
    """What all processes together need for a creation, and each beside it."""

    def of_all(which: str) -> list[Sample]:
        return [Sample(sum(each[_cost(name)] for name in field.processes(which))) for each in reports[which]]

    def of_each(which: str) -> str:
        costs = {name: statistics.median(r[_cost(name)] for r in reports[which]) for name in field.processes(which)}
        return f"{which}: " + ", ".join(f"{name} {cost:.1f}" for name, cost in costs.items())

    return _row(what, "ms", of_all(OURS), of_all(NULL), "", "; ".join(map(of_each, (OURS, NULL, ALIKE, NONE))))


def _cost(name: str) -> str:
    return f"cpu_ms {name}"


def _row(what: str, unit: str, ours: list[Sample], bare: list[Sample], aim: str, beside: str) -> Row:
    return Row(bench="pods", what=what, unit=unit, ours=ours, bare=bare, aim=aim, beside=beside)


def _turns(
    field: Field, clients: int, options: Options, order: tuple[str, ...] = (OURS, NULL, ALIKE, NONE)
) -> dict[str, list[dict[str, float]]]:
    reports: dict[str, list[dict[str, float]]] = {which: [] for which in order}
    for number in range(options.rounds):
        for which in order[:: -1 if number % 2 else 1]:
            reports[which].append(_measure(field, which, clients, options))
    return reports


def _measure(field: Field, which: str, clients: int, options: Options) -> dict[str, float]:
    with ExitStack() as stack:
        for other, servers in field.behind.items():
            for each in servers.values() if other != which else ():
                stack.enter_context(each.paused())
        if which == OURS:
            _catch_up(field.behind[OURS]["allocator"])
        pids = field.processes(which)
        before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        report = _create(field, which, clients, f"--seconds={options.seconds}", f"--warm-up={options.warm_up}")
        used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    return report | {_cost(name): 1000 * seconds / report["total"] for name, seconds in used.items()}


def _catch_up(allocator: Server) -> None:
    """Until it has seen what the others created while it was stopped: that would be measured with what follows."""
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while allocator.metric("hostport_watch_lag_seconds") > 1:
        if time.monotonic() > deadline:
            raise ProcessError("the allocator does not catch up with the Pods of the others")
        time.sleep(0.2)


def _fill(field: Field, options: Options) -> int:
    """Creates Pods until there are as many as wanted; returns how many there are."""
    there = len(field.plane.api.ask("GET", "/api/v1/namespaces/ours/pods", timeout=60).json["items"])
    if there < options.pods:
        _create(field, OURS, CLIENTS, f"--requests={options.pods - there}")
    return max(there, options.pods)


def _create(field: Field, which: str, clients: int, *more: str) -> dict[str, float]:
    return load(
        *(f"--address={field.plane.api.base.removeprefix('https://')}", f"--path=/api/v1/namespaces/{which}/pods"),
        *(f"--body={field.folder / 'pod.json'}", f"--ca={field.plane.pki.ca}", "--created"),
        *("--client", str(field.admin.cert), str(field.admin.key), f"--concurrency={clients}"),
        *(f"--first={next(field.serial) * 1_000_000}", *more),
    )


@contextmanager
def _field(binaries: Binaries, folder: Path) -> Iterator[Field]:
    (folder / "plane").mkdir()
    (folder / "pod.json").write_text(json.dumps(pod()))
    with control_plane(binaries, folder / "plane", nodes=()) as plane, ExitStack() as stack:
        for number in range(NODES):
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"}}
            plane.api.ask("POST", "/api/v1/nodes", node)
        for which in (OURS, NULL, ALIKE, NONE):
            create_namespace(plane, which)
        tls = plane.pki.server("webhook")
        flags = ("--cluster=kubernetes", f"--kubeconfig={plane.kubectl.kubeconfig}")
        address, back = stack.enter_context(allocator("sqlite", *flags))
        start = partial(_webhook, stack, plane, folder, tls)
        shim, mutate = start(OURS, "shim", "serve", "--http=127.0.0.1:0", f"--allocator={address}")
        null, _ = start(NULL, "bench.null_webhook")
        (folder / "answer.json").write_bytes(answer_of(mutate, plane.pki.ca, folder))
        alike, _ = start(ALIKE, "bench.null_webhook", f"--answer={folder / 'answer.json'}")
        plane.kubectl.apply(*_policies())
        time.sleep(2)  # the API server learns of its webhooks and policies
        behind = {OURS: {"shim": shim, "allocator": back}, NULL: {"webhook": null}, ALIKE: {"webhook": alike}, NONE: {}}
        yield Field(plane, plane.pki.client("bench", group="system:masters"), folder, behind, count(1))


def _webhook(
    stack: ExitStack, plane: ControlPlane, folder: Path, tls: KeyPair, which: str, *command: str
) -> tuple[Server, str]:
    """Starts a webhook, which the API server calls for the Pods of its namespace by the rules of the installation.

    The null webhook has one entry of them, the one that new Pods meet. Returns its process and address.
    """
    address = free_address()
    flags = (f"--listen={address}", f"--tls-cert={tls.cert}", f"--tls-key={tls.key}")
    process = stack.enter_context(server(folder, *command, *flags))
    process.wait_for(address)
    configuration = yaml.safe_load((CHECKOUT / "deploy" / "base" / "webhook.yaml").read_text())
    configuration["metadata"]["name"] = f"bench-{which}"
    if which == NULL:
        configuration["webhooks"] = [each for each in configuration["webhooks"] if each["name"] == MET_FIRST]
    for webhook in configuration["webhooks"]:
        webhook["clientConfig"] = {"url": f"https://{address}/mutate", "caBundle": plane.pki.ca_bundle}
        webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": which}}
    plane.api.ask("POST", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", configuration)
    return process, address


def _policies() -> Iterator[dict[str, Any]]:
    """What the installation makes the API server itself check of Pods, where our entries are."""
    for each in yaml.safe_load_all((CHECKOUT / "deploy" / "base" / "admission-policies.yaml").read_text()):
        if each["kind"].endswith("Binding"):
            where = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [OURS, ALIKE]}
            each["spec"]["matchResources"] = {"namespaceSelector": {"matchExpressions": [where]}}
        yield each


def answer_of(address: str, authority: Path, folder: Path) -> bytes:
    """What our shim answers for a Pod, with `%s` for the uid."""
    record = json.loads(RECORDED.read_text())
    record["request"] |= {"uid": f"00000000-0000-4000-8000-00{SERIAL}", "namespace": OURS, "name": f"pod-{SERIAL}"}
    record["request"]["object"] = pod() | {"metadata": {**pod()["metadata"], "namespace": OURS}}
    (folder / "review.json").write_text(json.dumps(record))
    kept = folder / "answered.json"
    load(
        *(f"--address={address}", f"--path={PATH}", f"--body={folder / 'review.json'}", f"--ca={authority}"),
        *("--concurrency=1", "--requests=2", "--warm-up=0", f"--answer={kept}"),
    )
    answer = json.loads(kept.read_bytes())
    answer["response"]["uid"] = "%s"
    return json.dumps(answer, separators=(",", ":")).encode()


def pod() -> dict[str, Any]:
    """A Pod that asks for two ports."""
    annotations = {
        "hostport.io/enabled": "true",
        "hostport.io/policy": "Dynamic",
        "hostport.io/min-port": str(RANGE[0]),
        "hostport.io/max-port": str(RANGE[1]),
    }
    ports = [{"name": "primary", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{SERIAL}", "annotations": annotations},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1", "ports": ports}]},
    }
