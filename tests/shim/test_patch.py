from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import jsonpatch
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shimkit import FakeAllocator, Json, container, decide, granted, patched, pod, port, recorded, review, shown

from hostport.v1.allocator_pb2 import POLICY_DYNAMIC, POLICY_STATIC, AllocateResponse, PortRange, Warning  # noqa: A004 - the message's name
from shim.admission import warning_text
from shim.annotations import PodSettings
from shim.patch import build_patch
from shim.pods import parse_pod
from shim.ports import AllocationError
from shim.review import PatchOptions

PLAIN = PatchOptions(settings=PodSettings(inject_env=False))
ID = "a" * 32


def ops(obj: Json, response: AllocateResponse, options: PatchOptions = PLAIN) -> list[tuple[str, Any]]:
    """The operations on the spec: (path, value)."""
    built, _ = build_patch(parse_pod(obj), response, options)
    return [(op.path, getattr(op, "value", None)) for op in built if op.path.startswith("/spec")]


def reasons(obj: Json, response: AllocateResponse, options: PatchOptions = PLAIN) -> list[str]:
    return [warning.reason for warning in build_patch(parse_pod(obj), response, options)[1]]


# -- the whole of it, on a Pod of a real API server


def test_the_readmes_example_is_patched_as_written() -> None:
    what = recorded("statefulset-pod-1")
    entries = [
        {"name": "HOSTPORT_HOST_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}},
        {"name": "HOSTPORT_PRIMARY", "value": "10001"},
        {"name": "HOSTPORT_METRICS", "value": "10101"},
    ]
    table = [
        {"container": "node", "name": "primary", "protocol": "TCP", "containerPort": 8080, "hostPort": 10001},
        {"container": "node", "name": "metrics", "protocol": "TCP", "containerPort": 9090, "hostPort": 10101},
    ]

    answer = decide(what, FakeAllocator())

    assert msgspec.to_builtins(list(answer.ops)) == [
        {"op": "add", "path": "/spec/hostNetwork", "value": True},
        {"op": "add", "path": "/spec/containers/0/ports/0/containerPort", "value": 10001},
        {"op": "add", "path": "/spec/containers/0/ports/0/hostPort", "value": 10001},
        {"op": "add", "path": "/spec/containers/0/ports/1/containerPort", "value": 10101},
        {"op": "add", "path": "/spec/containers/0/ports/1/hostPort", "value": 10101},
        {"op": "add", "path": "/spec/dnsPolicy", "value": "ClusterFirstWithHostNet"},
        {"op": "add", "path": "/spec/containers/0/env", "value": entries},
        {"op": "add", "path": "/metadata/annotations/hostport.io~1allocated-primary", "value": "10001"},
        {"op": "add", "path": "/metadata/annotations/hostport.io~1allocated-metrics", "value": "10101"},
        {
            "op": "add",
            "path": "/metadata/annotations/hostport.io~1allocations",
            "value": json.dumps(table, separators=(",", ":")),
        },
        {"op": "add", "path": "/metadata/annotations/hostport.io~1allocation-id", "value": f"{1:032x}"},
        {"op": "add", "path": "/metadata/annotations/hostport.io~1warnings", "value": "PORT_MOVED"},
    ]
    moved = "port primary of container node moved from 8080 to 10001; nothing names HOSTPORT_PRIMARY"
    assert [warning_text(each) for each in answer.warnings] == [
        f"PORT_MOVED: {moved}: listen on it, or set hostport.io/network: Pod"
    ]


@pytest.mark.parametrize("name", ["statefulset-pod-0", "indexed-job-pod-0", "static-pod", "deployment-pod"])
def test_everything_else_survives_byte_for_byte(name: str) -> None:
    before = recorded(name)["request"]["object"]
    before["spec"]["ofTheFuture"] = {"z": 1.5, "a": [None, "é~/"]}

    after = patched(before, decide(review(before), FakeAllocator()))

    assert json.dumps(_without_ours(after)) == json.dumps(_without_ours(deepcopy(before)))


def _without_ours(obj: Json) -> Json:
    """The Pod without the fields that the patch may write, in the order in which they stand."""
    obj["spec"].pop("hostNetwork", None)
    obj["spec"].pop("dnsPolicy")
    notes = obj["metadata"]["annotations"]
    ours = ("hostport.io/allocat", "hostport.io/warnings")
    obj["metadata"]["annotations"] = {key: notes[key] for key in notes if not key.startswith(ours)}
    for each in obj["spec"]["containers"]:
        env = [entry for entry in each.pop("env", []) if not entry["name"].startswith("HOSTPORT_")]
        each.update({"env": env} if env else {})
        for one in each["ports"]:
            one.pop("hostPort", None)
            one.pop("containerPort")
    return obj


# -- network, ports, DNS


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        pytest.param({"dnsPolicy": "ClusterFirst"}, PLAIN, "ClusterFirstWithHostNet", id="the default"),
        pytest.param({"dnsPolicy": None}, PLAIN, "ClusterFirstWithHostNet", id="absent"),
        pytest.param({"dnsPolicy": "Default"}, PLAIN, None, id="another is the user's"),
        pytest.param({"dnsPolicy": "ClusterFirstWithHostNet"}, PLAIN, None, id="right already"),
        pytest.param(
            {"dnsPolicy": "ClusterFirst"},
            PatchOptions(settings=PodSettings(inject_env=False, keep_dns=True)),
            None,
            id="Keep",
        ),
    ],
)
def test_dns_follows_host_network(spec: Json, options: PatchOptions, expected: str | None) -> None:
    made = pod(container("a", port(number=80)), **spec)

    found = dict(ops(made, granted(("a", "", 80, 80)), options))

    assert found.get("/spec/dnsPolicy") == expected


def test_nothing_is_written_that_is_right_already() -> None:
    made = pod(container("a", port(number=80, hostPort=80)), hostNetwork=True, dnsPolicy="None")

    assert ops(made, granted(("a", "", 80, 80))) == []


def test_ports_are_found_by_their_place() -> None:
    made = pod(
        container("a", port(number=1), port("u", 2, "UDP")),
        initContainers=[container("i", port(number=5)), container("s", port(number=3), restartPolicy="Always")],
        hostNetwork=True,
        dnsPolicy="None",
    )

    found = ops(made, granted(("a", "", 1, 1), ("a", "u/UDP", 2, 20), ("s", "", 3, 30)))

    assert found == [
        ("/spec/containers/0/ports/0/hostPort", 1),
        ("/spec/containers/0/ports/1/containerPort", 20),
        ("/spec/containers/0/ports/1/hostPort", 20),
        ("/spec/initContainers/1/ports/0/containerPort", 30),
        ("/spec/initContainers/1/ports/0/hostPort", 30),
    ]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        pytest.param(granted(), "asked for 1 ports, got 0", id="too few"),
        pytest.param(granted(("b", "", 80, 80)), "got port ''/TCP of 'b'", id="another container"),
        pytest.param(granted(("a", "/UDP", 80, 80)), "got port ''/UDP of 'a'", id="another protocol"),
        pytest.param(granted(("a", "", 80, 0)), "got the number 0", id="no number"),
        pytest.param(granted(("a", "", 80, 65536)), "got the number 65536", id="no port"),
    ],
)
def test_an_answer_that_does_not_fit_patches_nothing(response: AllocateResponse, message: str) -> None:
    with pytest.raises(AllocationError, match=message):
        ops(pod(container("a", port(number=80))), response)


# -- probes and lifecycle handlers


def http(number: object, **more: Any) -> Json:
    return {"httpGet": {"path": "/", "port": number} | more}


def on_host(number: int, host: str) -> Json:
    return {"httpGet": {"path": "/", "port": number, "host": host}}


@pytest.mark.parametrize(
    ("where", "probe", "expected"),
    [
        pytest.param("livenessProbe", http(80), ("httpGet", 8000), id="liveness httpGet"),
        pytest.param("readinessProbe", {"tcpSocket": {"port": 80}}, ("tcpSocket", 8000), id="readiness tcpSocket"),
        pytest.param("startupProbe", {"grpc": {"port": 80}}, ("grpc", 8000), id="startup grpc"),
        pytest.param("livenessProbe", http("web"), None, id="a named port needs nothing"),
        pytest.param("livenessProbe", http("80"), None, id="text is a name"),
        pytest.param("livenessProbe", http(True), None, id="a boolean is no number"),
        pytest.param("livenessProbe", http(99), None, id="a number of nobody"),
        pytest.param("livenessProbe", http(53), None, id="a UDP port is not probed"),
        pytest.param("livenessProbe", on_host(80, ""), ("httpGet", 8000), id="an empty host is none"),
        pytest.param("livenessProbe", on_host(80, "127.0.0.1"), ("httpGet", 8000), id="loopback"),
        pytest.param("livenessProbe", on_host(80, "::1"), ("httpGet", 8000), id="loopback of IPv6"),
        pytest.param("livenessProbe", on_host(80, "localhost"), ("httpGet", 8000), id="loopback by name"),
        pytest.param("livenessProbe", on_host(80, "example.org"), None, id="another host"),
        pytest.param("livenessProbe", {"tcpSocket": {"port": 80, "host": "x"}}, None, id="another host's socket"),
        pytest.param("livenessProbe", http(81), ("httpGet", 8100), id="the only other container's"),
        pytest.param("livenessProbe", http(82), None, id="two others have it"),
        pytest.param("livenessProbe", None, None, id="null"),
    ],
)
def test_a_numeric_probe_follows_its_port(where: str, probe: Json | None, expected: tuple[str, int] | None) -> None:
    made = pod(
        container("a", port("web", 80), port("dns", 53, "UDP"), **{where: probe}),
        container("b", port("b", 80), port("b1", 81), port("b2", 82)),
        container("c", port("c2", 82)),
    )
    held = granted(
        ("a", "web", 80, 8000),
        ("a", "dns/UDP", 53, 5300),
        ("b", "b", 80, 8001),
        ("b", "b1", 81, 8100),
        ("b", "b2", 82, 8200),
        ("c", "c2", 82, 8201),
    )

    found = [(path, value) for path, value in ops(made, held) if where in path]

    assert found == ([(f"/spec/containers/0/{where}/{expected[0]}/port", expected[1])] if expected else [])


@pytest.mark.parametrize("hook", ["postStart", "preStop"])
@pytest.mark.parametrize("handler", ["httpGet", "tcpSocket"])
def test_a_lifecycle_handler_follows_its_port(hook: str, handler: str) -> None:
    made = pod(container("a", port(number=80), lifecycle={hook: {handler: {"port": 80}}}))

    found = ops(made, granted(("a", "", 80, 8000)))

    assert (f"/spec/containers/0/lifecycle/{hook}/{handler}/port", 8000) in found


def test_ports_that_swap_numbers_swap_their_probes() -> None:
    made = pod(container("a", port(number=80), port(number=81), livenessProbe=http(80), readinessProbe=http(81)))

    found = dict(ops(made, granted(("a", "", 80, 81), ("a", "", 81, 80))))

    assert found["/spec/containers/0/livenessProbe/httpGet/port"] == 81
    assert found["/spec/containers/0/readinessProbe/httpGet/port"] == 80


def test_init_containers_probes_follow_too() -> None:
    made = pod(container("a", port(number=80)), initContainers=[container("s", livenessProbe=http(80))])

    assert ("/spec/initContainers/0/livenessProbe/httpGet/port", 8000) in ops(made, granted(("a", "", 80, 8000)))


def test_a_new_number_of_the_pods_own_claim_is_no_old_one() -> None:
    """First 8080 → 10001 and 10001 → 10000; when the Pod comes back, 10001 is where the probe belongs."""
    made = pod(
        container("a", port("x", 10001), port("y", 10000), livenessProbe=http(10001)),
        annotations={"allocation-id": ID},
    )
    held = granted(("a", "x", 8080, 10001), ("a", "y", 10001, 10000))

    assert not any("livenessProbe" in path for path, _ in ops(made, held))
    made["metadata"]["annotations"]["hostport.io/allocation-id"] = "b" * 32
    anew = granted(("a", "x", 10001, 10000), ("a", "y", 10000, 10002))
    assert ("/spec/containers/0/livenessProbe/httpGet/port", 10000) in ops(made, anew)


# -- warnings


@pytest.mark.parametrize(
    ("bounds", "number", "expected"),
    [
        pytest.param((7000, 8000), 7000, [], id="the default range"),
        pytest.param((20000, 29999), 20000, [], id="just below the NodePorts"),
        pytest.param((20000, 30000), 20000, ["NODE_PORT_RANGE"], id="into the NodePorts"),
        pytest.param((32000, 33000), 32000, ["EPHEMERAL_RANGE", "NODE_PORT_RANGE"], id="into both"),
        pytest.param((60999, 62000), 61500, ["EPHEMERAL_RANGE"], id="the last ephemeral"),
        pytest.param((61000, 62000), 61000, [], id="behind the ephemerals"),
        pytest.param((1000, 2000), 1023, ["PRIVILEGED_PORT"], id="privileged"),
        pytest.param((1000, 2000), 1024, [], id="not privileged"),
        pytest.param(None, 40000, ["EPHEMERAL_RANGE"], id="a fixed number"),
        pytest.param(None, 30080, ["NODE_PORT_RANGE"], id="a fixed NodePort"),
    ],
)
def test_a_range_or_number_that_others_use_is_warned_of(
    bounds: tuple[int, int] | None, number: int, expected: list[str]
) -> None:
    made = pod(container("a", port(number=80), port(number=81), args=["$(HOSTPORT_80)"]))
    held = granted(("a", "", 80, number), ("a", "", 81, number))

    settings = PodSettings(policy=POLICY_STATIC)
    if bounds:
        settings = PodSettings(policy=POLICY_DYNAMIC, numbers=(*bounds, 100))

    assert reasons(made, held, PatchOptions(settings=settings)) == expected


EPHEMERAL = {
    "none of the default's": ([(20000, 21000)], 40000, []),
    "the nodes' own": ([(20000, 21000), (22000, 23000)], 22500, ["port 22500 meets the ephemeral range 22000-23000"]),
    "none at all, since their agents reserve": ([], 40000, []),
}


@pytest.mark.parametrize(("ranges", "number", "expected"), EPHEMERAL.values(), ids=EPHEMERAL)
def test_where_agents_say_which_numbers_connections_take_the_warning_goes_by_that(
    ranges: list[tuple[int, int]], number: int, expected: list[str]
) -> None:
    made = pod(container("a", port(number=80), args=["$(HOSTPORT_80)"]))
    held = granted(("a", "", 80, number))
    held.has_ephemeral_ranges = True
    held.ephemeral_ranges.extend(PortRange(min=low, max=high) for low, high in ranges)
    settings = PodSettings(inject_env=False, policy=POLICY_STATIC)
    _, warnings = build_patch(parse_pod(made), held, PatchOptions(settings=settings))

    told = [warned.message.partition(",")[0] for warned in warnings if warned.reason == "EPHEMERAL_RANGE"]
    assert told == expected


@pytest.mark.parametrize(
    ("metadata", "number", "expected"),
    [
        pytest.param({}, 7000, [], id="created"),
        pytest.param({"managedFields": [{"operation": "Update"}]}, 7000, [], id="created by a client"),
        pytest.param(
            {"managedFields": [{"operation": "Apply"}]}, 7000, ["BARE_POD_APPLIED"], id="applied by the server"
        ),
        pytest.param({"managedFields": [{"operation": "Apply"}]}, 8080, [], id="the number did not change"),
        pytest.param(
            {"managedFields": [{"operation": "Apply"}], "ownerReferences": [{"uid": "u", "controller": True}]},
            7000,
            [],
            id="a workload's",
        ),
        pytest.param(
            {"managedFields": [{"operation": "Apply"}], "ownerReferences": [{"uid": "u"}]},
            7000,
            ["BARE_POD_APPLIED"],
            id="an owner that is no controller",
        ),
    ],
)
def test_a_bare_pod_that_was_applied_is_warned_of(metadata: Json, number: int, expected: list[str]) -> None:
    made = pod(container("a", port(), args=["$(HOSTPORT_8080)"]))
    made["metadata"] |= metadata

    assert reasons(made, granted(("a", "", 8080, number)), PatchOptions()) == expected


def test_a_pod_that_kubectl_applied_is_warned_of() -> None:
    answer = decide(recorded("static-pod"), FakeAllocator())

    why = "applying this Pod again unchanged fails, as its containerPort changed"
    remedy = "delete and create it, or use a workload such as a StatefulSet"
    assert shown(answer)["response"]["warnings"][0] == f"BARE_POD_APPLIED: {why}: {remedy}"


def test_the_allocators_warnings_come_first_and_none_is_long() -> None:
    response = granted(("a", "", 80, 80))
    response.warnings.extend([Warning(reason="NO_CANDIDATE", message="x" * 300)])

    _, warnings = build_patch(parse_pod(pod(container("a", port(number=80)))), response, PLAIN)

    assert [warning.reason for warning in warnings] == ["NO_CANDIDATE", "PRIVILEGED_PORT"]
    assert [len(warning_text(warning)) <= 200 for warning in warnings] == [True, True]


# -- mutate(mutate(pod)) adds nothing

NUMBERS = st.sampled_from([80, 81, 8080, 10000, 10003, 10103])
NAMES = st.sampled_from(["", "web", "host-ip", "a-b", "dns"])
PORTS = st.lists(
    st.builds(port, name=NAMES, number=NUMBERS, protocol=st.sampled_from(["TCP", "UDP"])),
    max_size=3,
    unique_by=lambda each: (each["containerPort"], each["protocol"]),
)
ENV = st.lists(
    st.sampled_from(
        [
            {"name": "MINE", "value": "$(HOSTPORT_WEB)"},
            {"name": "HOSTPORT_WEB", "value": "9"},
            {"name": "HOSTPORT_80"},
            {"name": "HOSTPORT_WEB", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "HOSTPORT_HOST_IP", "value": "x"},
            {"name": "HOSTPORT_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        ]
    ),
    max_size=4,
)
CONTAINERS = st.builds(
    lambda ports, env, probe: {"image": "x", "ports": ports} | ({"env": env} if env else {}) | probe,
    PORTS,
    ENV,
    st.builds(lambda number: {"livenessProbe": http(number)} if number else {}, st.none() | NUMBERS),
)
PODS = st.builds(
    lambda parts, inits, notes: pod(
        *({"name": f"c{at}"} | part for at, part in enumerate(parts)),
        initContainers=[{"name": f"i{at}"} | part for at, part in enumerate(inits)],
        annotations={"min-port": "10000"} | notes,
    ),
    st.lists(CONTAINERS, min_size=1, max_size=3),
    st.lists(CONTAINERS.map(lambda part: part | {"restartPolicy": "Always"}) | CONTAINERS, max_size=2),
    st.dictionaries(st.sampled_from(["allocated-web", "allocated-old", "allocations", "allocation-id"]), st.just("x")),
)


@given(PODS)
def test_mutating_twice_adds_nothing(before: Json) -> None:
    allocator = FakeAllocator()

    once = patched(before, decide(before, allocator))
    again = decide(once, allocator)

    assert again.ops == ()
    assert "patch" not in shown(again)["response"]


@given(PODS)
def test_mutating_twice_in_a_dry_run_adds_nothing(before: Json) -> None:
    """There is no id to come back with."""
    before["metadata"]["annotations"].pop("hostport.io/allocation-id", None)
    before["metadata"]["annotations"].pop("hostport.io/allocations", None)

    once = patched(before, decide(review(before, dryRun=True), FakeAllocator()))

    assert decide(review(once, dryRun=True), FakeAllocator()).ops == ()


@pytest.mark.parametrize("table", ["", "x", "5", "null", "[5]", "[[]]", "{}", '[{"container": []}]', "[" * 9999])
def test_a_table_that_is_not_ours_is_nothing_to_a_dry_run(table: str) -> None:
    made = pod(container("a", port(number=80)), annotations={"allocations": table})

    answer = decide(review(made, dryRun=True), FakeAllocator())

    assert "hostport.io/allocated-80-TCP" in patched(made, answer)["metadata"]["annotations"]


@given(PODS, st.sampled_from([0, 1, 99]))
def test_a_container_that_another_webhook_injects_keeps_its_port(before: Json, at: int) -> None:
    """It comes with hostPort = containerPort, defaulted behind our patch, and at any place."""
    allocator = FakeAllocator()
    once = patched(before, decide(before, allocator))
    if once == before:
        return
    once["spec"]["containers"].insert(at, container("mesh", port("mesh", 15090, hostPort=15090)))

    twice = patched(once, decide(once, allocator))

    assert decide(twice, allocator).ops == ()
    injected = next(each for each in twice["spec"]["containers"] if each["name"] == "mesh")
    assert injected["ports"] == [port("mesh", 15090, hostPort=15090)]


@given(PODS)
def test_every_operation_is_an_add_or_a_remove_that_changes_something(before: Json) -> None:
    answer = decide(before, FakeAllocator())

    current = deepcopy(before)
    for op in msgspec.to_builtins(answer.ops):
        after = jsonpatch.apply_patch(current, [op])
        assert op["op"] in {"add", "remove"}
        assert after != current
        current = after
