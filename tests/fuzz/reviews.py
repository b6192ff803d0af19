"""Reviews by chance: what a real API server sent, changed where the programs look.

Rules:

* A change knows the field that it is about: its values are right, nearly right, or absurd. Most reviews have few
  changes, so that many of them reach the allocator and are granted.
* Everything comes from one `Random`, so that a seed tells a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

from hostport.contract import policies as contract

Json = dict[str, Any]
Change = Callable[[Random, Json], None]

RECORDED = Path(__file__).parent.parent / "testdata" / "admission"
REAL: list[Json] = [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))]
PODS = [
    review for review in REAL if review["request"]["operation"] == "CREATE" and "spec" in review["request"]["object"]
]
OURS = "hostport.io/"
NODES = ("n1", "n2", "n3", "n4")

ABSURD: list[Any] = [
    "",
    " ",
    "x" * 400,
    "\x00",
    "\u202e",
    "true ",
    "null",
    None,
    True,
    -1,
    1.5,
    2**31,
    2**63,
    10**30,
    [],
    {},
    "é" * 70,
]
SWITCHES: list[Any] = ["true"] * 12 + ["false", "True", "yes"]
POLICIES: list[Any] = [*contract.POLICIES] * 4 + ["index", "Dynamc", "Statically", "Round"]
BOUNDS: list[Any] = ["7000", "7005", "7040", "30000", "1", "65535"] * 2 + [
    "0",
    "65536",
    "-1",
    "7e3",
    "\u0667\u0660\u0660\u0660",
    "007000",
    "9" * 30,
]
NUMBERS: list[Any] = [*range(7000, 7006), 80, 443, 8080, 8443, 6443, 22, 1, 65535] * 2 + [
    0,
    -1,
    65536,
    2**31,
    2**63,
    None,
    "80",
    80.0,
]
PROTOCOLS: list[Any] = ["TCP", "UDP", "SCTP"] * 4 + [None, "", "tcp", "HTTP"]
ADDRESSES: list[Any] = [
    None,
    "",
    "0.0.0.0",
    "127.0.0.1",
    "10.0.0.1",
    "::",
    "::1",
    "fe80::1%eth0",
    "localhost",
    "1" * 70,
]
NAMES: list[Any] = ["web", "db", "metrics", "a-b", "b", None, ""] * 2 + [
    "UPPER",
    "a_b",
    "a/b~c",
    "n" * 64,
    "n" * 300,
    "é",
]
POD_NAMES: list[Any] = (
    [f"web-{at}" for at in range(12)] + [f"db-{at}" for at in (0, 7, 99, 100, 70000, 2**70)] + [None, "", "a/b"]
)
NAMESPACES = ("demo", "guarded", "other", "demo/x")
LABELS: list[Any] = ["0", "1", "7", "99", "100", "-1", "x", "9" * 25, ""]
PRIORITIES: list[Any] = [0, 1, 1000, -5, 2_000_001_000, 2**31 - 1, -(2**31), 2**31, None, "high", 1.0]
OPERATORS: list[Any] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "in", "", None]
REQUESTS: list[tuple[str, list[Any]]] = [
    ("operation", ["UPDATE", "DELETE", "create"]), ("subResource", ["binding", "", None]), ("dryRun", [True, False, None]),
    ("uid", ["", None, "u" * 128, "u" * 129]), ("namespace", ["", None, "other"]), ("object", [None]), ("kind", [None]),
]  # fmt: skip
HANDLERS = ("httpGet", "tcpSocket", "grpc")


def review_by_chance(chance: Random) -> Json:
    """A review that some API server could send, or could not."""
    review = deepcopy(chance.choice(PODS))
    review["request"]["uid"] = f"{chance.getrandbits(64):016x}"
    review["request"]["dryRun"] = chance.random() < 0.1
    metadata = part(review["request"]["object"], "metadata")
    part(metadata, "annotations")[f"{OURS}enabled"] = "true"
    place(chance, review["request"])
    changes = [chance.choice(CHANGES) for _ in range(chance.choice((0, 1, 2, 2, 3, 4, 6)))]
    for change in changes:
        change(chance, review["request"])
    if chance.random() < 0.03:  # read by the other reader
        review["request"]["object"]["status"] = {"message": "x" * (65 << 10)}
    return review


def part(parent: Json, key: str) -> Json:
    """An object in another, made where there is none or something else."""
    if not isinstance(parent.get(key), dict):
        parent[key] = {}
    found: Json = parent[key]
    return found


def items(parent: Json, key: str) -> list[Json]:
    """A list of objects in an object, made where there is none or something else."""
    if not isinstance(parent.get(key), list) or not all(isinstance(each, dict) for each in parent[key]):
        parent[key] = []
    found: list[Json] = parent[key]
    return found


def some(chance: Random, values: list[Any]) -> Any:
    return deepcopy(chance.choice(ABSURD)) if chance.random() < 0.03 else chance.choice(values)


def put(into: Json, key: str, value: Any) -> None:
    """None: it is absent."""
    into.pop(key, None)
    if value is not None:
        into[key] = value


def place(chance: Random, request: Json) -> None:
    metadata = request["object"]["metadata"]
    request["namespace"] = metadata["namespace"] = chance.choice(NAMESPACES)
    part(metadata, "annotations")[f"{OURS}policy"] = chance.choice(POLICIES[:4])
    if metadata.get("name"):
        metadata["name"] = f"{chance.choice(('web', 'db'))}-{chance.randrange(12)}"
        put(part(metadata, "labels"), "apps.kubernetes.io/pod-index", None)


def change_setting(chance: Random, request: Json) -> None:
    annotations = part(part(request["object"], "metadata"), "annotations")
    name, values = chance.choice([
        ("policy", POLICIES), ("min-port", BOUNDS), ("max-port", BOUNDS), ("stride", [*BOUNDS, "2", "100"]),
        ("enabled", SWITCHES), ("when-full", ["Deny", "Pending", "Pending", "pending"]), ("dns-policy", ["Keep", "keep"]),
        ("inject-env", ["true", "false", "no"]), ("minPort", ["7000"]), ("network", ["Pod"]),
    ])  # fmt: skip
    put(annotations, OURS + name, some(chance, values))


def change_range(chance: Random, request: Json) -> None:
    annotations = part(part(request["object"], "metadata"), "annotations")
    low = chance.choice((7000, 7002, 6443, 20, 65530))
    annotations |= {f"{OURS}min-port": str(low), f"{OURS}max-port": str(low + chance.choice((0, 1, 3, 5)))}


def change_former_life(chance: Random, request: Json) -> None:
    annotations = part(part(request["object"], "metadata"), "annotations")
    table = [{"container": "web", "name": "web", "protocol": "TCP", "containerPort": 80, "hostPort": 8080}]
    texts = [json.dumps(table), json.dumps(table[0]), "[]", "null", "{", "[" * 5000, '[{"hostPort": 1e999}]', "[1]"]
    put(annotations, f"{OURS}allocations", some(chance, texts))
    put(annotations, f"{OURS}allocation-id", some(chance, [None, "a" * 32, "f" * 128, "f" * 129, f"{1:032x}", "pod-x"]))
    put(annotations, f"{OURS}allocated-{chance.choice(['web', '80-TCP', 'x/y', '~'])}", some(chance, ["80", "10000"]))


def container(chance: Random, request: Json) -> Json:
    """One of the Pod's, or a new one."""
    spec = part(request["object"], "spec")
    among = items(spec, chance.choice(("containers", "containers", "containers", "initContainers")))
    if not among or chance.random() < 0.2:
        among.insert(chance.randint(0, len(among)), {"name": chance.choice(NAMES), "image": "x"})
    return chance.choice(among)


def change_container(chance: Random, request: Json) -> None:
    of = container(chance, request)
    put(of, "name", some(chance, NAMES))
    put(of, "restartPolicy", some(chance, ["Always", "Always", None, "OnFailure"]))


def change_port(chance: Random, request: Json) -> None:
    ports = items(container(chance, request), "ports")
    if not ports or chance.random() < 0.4:
        ports.append({"containerPort": 8080, "protocol": "TCP"})
    port = chance.choice(ports)
    for key, values in [
        ("containerPort", NUMBERS), ("hostPort", NUMBERS), ("protocol", PROTOCOLS), ("hostIP", ADDRESSES), ("name", NAMES),
    ]:  # fmt: skip
        if chance.random() < 0.4:
            put(port, key, some(chance, values))


def change_static(chance: Random, request: Json) -> None:
    part(part(request["object"], "metadata"), "annotations")[f"{OURS}policy"] = "Static"
    for each in items(part(request["object"], "spec"), "containers"):
        for port in items(each, "ports"):
            port["hostPort"] = chance.choice((7000, 7001, 7002, 7003, 8080, 22))


def change_many_ports(chance: Random, request: Json) -> None:
    count = chance.choice((5, 20, 60, 200, 511, 512, 513))
    ports = items(container(chance, request), "ports")
    ports.extend({"containerPort": 9000 + at, "name": chance.choice((f"p{at}", f"p{at}", ""))} for at in range(count))


def change_many_containers(chance: Random, request: Json) -> None:
    among = items(part(request["object"], "spec"), chance.choice(("containers", "initContainers")))
    count = chance.choice((10, 100, 513))
    among.extend({"name": "n" * chance.choice((1, 60, 250)) + str(at), "image": "x"} for at in range(count))


def change_network(chance: Random, request: Json) -> None:
    spec = part(request["object"], "spec")
    put(spec, "hostNetwork", some(chance, [True, True, False, None]))
    put(spec, "dnsPolicy", some(chance, ["ClusterFirst", "Default", None]))
    if chance.random() < 0.2:
        key, value = chance.choice([
            ("hostUsers", False), ("hostnameOverride", "x"), ("os", {"name": "windows"}),
            ("securityContext", {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}),
        ])  # fmt: skip
        spec[key] = value


def change_priority(chance: Random, request: Json) -> None:
    spec = part(request["object"], "spec")
    put(spec, "priority", some(chance, PRIORITIES))
    put(spec, "preemptionPolicy", some(chance, ["Never", "PreemptLowerPriority", None]))


def change_node(chance: Random, request: Json) -> None:
    put(part(request["object"], "spec"), "nodeName", some(chance, [*NODES, "gone", None]))


def change_selector(chance: Random, request: Json) -> None:
    count = 300 if chance.random() < 0.05 else chance.randint(0, 2)
    chosen = {f"k{at}": "x" for at in range(count)} | {"zone": some(chance, ["a", "b", "c", ""])}
    part(request["object"], "spec")["nodeSelector"] = chosen


def change_tolerations(chance: Random, request: Json) -> None:
    one = {"key": some(chance, ["dedicated", "", None]), "operator": some(chance, ["Exists", "Equal", None, "In"])}
    one |= {"effect": some(chance, ["NoSchedule", "NoExecute", "", None]), "value": some(chance, ["x", "", None])}
    part(request["object"], "spec")["tolerations"] = [one] * chance.choice((1, 1, 2, 256, 257))


def requirement(chance: Random) -> Json:
    values = [some(chance, ["a", "b", "1", "n1", "n2"]) for _ in range(chance.choice((0, 1, 2, 3)))]
    return {
        "key": some(chance, ["zone", "rank", "metadata.name"]),
        "operator": some(chance, OPERATORS),
        "values": values,
    }


def change_affinity(chance: Random, request: Json) -> None:
    terms = [
        {key: [requirement(chance) for _ in range(chance.randint(0, 2))] for key in ("matchExpressions", "matchFields")}
        for _ in range(chance.choice((0, 1, 1, 2, 3, 257)))
    ]
    affinity = part(part(request["object"], "spec"), "affinity")
    required = part(part(affinity, "nodeAffinity"), "requiredDuringSchedulingIgnoredDuringExecution")
    required["nodeSelectorTerms"] = terms


def change_env(chance: Random, request: Json) -> None:
    env = items(container(chance, request), "env")
    for _ in range(chance.choice((1, 1, 2, 50, 4097))):
        name = some(chance, ["HOSTPORT_WEB", "HOSTPORT_HOST_IP", "HOSTPORT_8080", "HOSTPORT_", "PATH", None])
        source = {"fieldRef": {"fieldPath": chance.choice(("status.hostIP", "status.podIP", None))}}
        entry = {"name": name, "value": some(chance, ["8080", "", None])}
        env.insert(0, entry | ({"valueFrom": source} if chance.random() < 0.2 else {}))


def change_probe(chance: Random, request: Json) -> None:
    handler = {"port": some(chance, [*NUMBERS, "web"])} | ({"host": "x"} if chance.random() < 0.1 else {})
    what = {chance.choice(HANDLERS): handler}
    if chance.random() < 0.5:
        container(chance, request)[chance.choice(("livenessProbe", "readinessProbe", "startupProbe"))] = what
    else:
        container(chance, request)["lifecycle"] = {chance.choice(("postStart", "preStop")): what}


def change_name(chance: Random, request: Json) -> None:
    metadata = part(request["object"], "metadata")
    put(metadata, "name", some(chance, POD_NAMES))
    put(metadata, "generateName", some(chance, ["web-", "job-0-", None, "g" * 250]))
    if chance.random() < 0.2:
        put(metadata, "namespace", some(chance, ["demo", None, "n" * 254]))


def change_index(chance: Random, request: Json) -> None:
    metadata = part(request["object"], "metadata")
    key = chance.choice(("apps.kubernetes.io/pod-index", "batch.kubernetes.io/job-completion-index"))
    put(part(metadata, chance.choice(("labels", "annotations"))), key, some(chance, LABELS))


def change_owner(chance: Random, request: Json) -> None:
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web",
        "controller": some(chance, [True, False, None]),
    }
    owner["uid"] = some(chance, ["rs-1", "rs-2", "", "u" * 300])
    part(request["object"], "metadata")["ownerReferences"] = [owner] * chance.choice((1, 1, 1, 257))


def change_size(chance: Random, request: Json) -> None:
    annotations = part(part(request["object"], "metadata"), "annotations")
    if chance.random() < 0.5:
        annotations["long"] = "x" * chance.choice((200_000, 260_000))
    else:
        count = chance.choice((500, 5000))
        annotations |= {chance.choice((f"a/{at}", f"{OURS}allocated-{at}")): "1" for at in range(count)}


def change_request(chance: Random, request: Json) -> None:
    key, values = chance.choice(REQUESTS)
    put(request, key, some(chance, values))
    if not isinstance(request.get("object"), dict):
        request["object"] = {"metadata": {}, "spec": {}} if chance.random() < 0.5 else {}


def change_anything(chance: Random, request: Json) -> None:
    """A field that the programs read is something else altogether."""
    obj = request["object"]
    where: list[Json] = [obj, part(obj, "metadata"), part(obj, "spec"), container(chance, request)]
    parent = chance.choice(where)
    if parent:
        parent[chance.choice(sorted(parent))] = deepcopy(chance.choice(ABSURD))


CHANGES: tuple[Change, ...] = (
    change_setting, change_setting, change_range, change_former_life, change_container, change_port, change_port,
    change_static, change_many_ports, change_many_containers, change_network, change_priority, change_node,
    change_selector, change_tolerations, change_affinity, change_env, change_probe, change_name, change_index,
    change_owner, change_size, change_request, change_anything,
)  # fmt: skip
