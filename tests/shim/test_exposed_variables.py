from __future__ import annotations

from typing import Any

import msgspec
import pytest
from shimkit import Json, container, granted, pod, port

from hostport.v1.allocator_pb2 import AllocateResponse
from shim.admission import warning_text
from shim.annotations import PodSettings
from shim.patch import build_patch
from shim.pods import parse_pod
from shim.review import PatchOptions

HOST_IP = {"name": "HOSTPORT_HOST_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}}
SECRET = {"secretKeyRef": {"name": "s", "key": "k"}}


def built(obj: Json, response: AllocateResponse, options: PatchOptions | None = None) -> tuple[list[Json], list[str]]:
    built, warnings = build_patch(parse_pod(obj), response, options or PatchOptions())
    ops = msgspec.to_builtins(built)
    return [op for op in ops if "/env" in op["path"]], [warning_text(each) for each in warnings if "ENV" in each.reason]


def variables(obj: Json, response: AllocateResponse) -> dict[str, dict[str, str]]:
    """Container → variable → value, for containers without env; without the address of the host."""
    ops, _ = built(obj, response)
    spec = obj["spec"]
    found = {}
    for op in ops:
        _, _, kind, at, _ = op["path"].split("/")
        found[spec[kind][int(at)]["name"]] = {each["name"]: each["value"] for each in op["value"] if "value" in each}
    return found


@pytest.mark.parametrize(
    ("ports", "held", "expected"),
    [
        pytest.param([port("web")], [("a", "web", 8080, 1)], {"HOSTPORT_WEB": "1"}, id="a name in capitals"),
        pytest.param([port("a-b-c")], [("a", "a-b-c", 8080, 1)], {"HOSTPORT_A_B_C": "1"}, id="dashes"),
        pytest.param([port()], [("a", "", 8080, 1)], {"HOSTPORT_8080": "1"}, id="unnamed: the old number"),
        pytest.param(
            [port(number=53), port(number=53, protocol="UDP")],
            [("a", "", 53, 1), ("a", "/UDP", 53, 1)],
            {"HOSTPORT_53": "1"},
            id="twins share one",
        ),
        pytest.param(
            [port("b"), port("a", 81)],
            [("a", "b", 8080, 1), ("a", "a", 81, 2)],
            {"HOSTPORT_B": "1", "HOSTPORT_A": "2"},
            id="in port order",
        ),
    ],
)
def test_a_ports_variable(ports: list[Json], held: list[tuple[str, str, int, int]], expected: dict[str, str]) -> None:
    found = variables(pod(container("a", *ports)), granted(*held))["a"]

    assert list(found.items()) == list(expected.items())


def test_every_container_has_them_and_its_own_name_wins() -> None:
    made = pod(
        container("a", port("web"), port("only", 1)),
        container("side-car", port("web", 9090)),
        container("none"),
        initContainers=[container("init")],
    )
    held = granted(("a", "web", 8080, 7000), ("a", "only", 1, 7100), ("side-car", "web", 9090, 7200))
    by_container = {"HOSTPORT_A_WEB": "7000", "HOSTPORT_SIDE_CAR_WEB": "7200"}

    assert variables(made, held) == {
        "a": {"HOSTPORT_WEB": "7000", "HOSTPORT_ONLY": "7100"} | by_container,
        "side-car": {"HOSTPORT_WEB": "7200", "HOSTPORT_ONLY": "7100"} | by_container,
        "none": {"HOSTPORT_WEB": "7000", "HOSTPORT_ONLY": "7100"} | by_container,
        "init": {"HOSTPORT_WEB": "7000", "HOSTPORT_ONLY": "7100"} | by_container,
    }


def test_the_hosts_address_comes_first() -> None:
    ops, _ = built(pod(container("a", port("web"))), granted(("a", "web", 8080, 1)))

    assert ops == [
        {"op": "add", "path": "/spec/containers/0/env", "value": [HOST_IP, {"name": "HOSTPORT_WEB", "value": "1"}]}
    ]


def test_env_can_be_left_alone() -> None:
    stale: list[Json] = [{"name": "HOSTPORT_WEB", "value": "9"}]
    made = pod(container("a", port("web"), env=stale))

    assert built(made, granted(("a", "web", 8080, 1)), PatchOptions(settings=PodSettings(inject_env=False))) == ([], [])


# -- what is there already: (env, what becomes of it)

WEB = {"name": "HOSTPORT_WEB", "value": "7000"}
OLD = {"name": "HOSTPORT_WEB", "value": "9"}
FROM = {"name": "HOSTPORT_WEB", "valueFrom": SECRET}
MINE = {"name": "URL", "value": "http://$(HOSTPORT_HOST_IP):$(HOSTPORT_WEB)"}
DEFAULTED = {"name": "HOSTPORT_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
POD_IP = {"name": "HOSTPORT_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
FIXED_IP = {"name": "HOSTPORT_HOST_IP", "value": "10.0.0.1"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param(None, [HOST_IP, WEB], id="null"),
        pytest.param([], [HOST_IP, WEB], id="empty"),
        pytest.param([MINE], [HOST_IP, WEB, MINE], id="first, so that others may use them"),
        pytest.param([MINE, OLD], [HOST_IP, WEB, MINE], id="another life's number is replaced"),
        pytest.param([OLD, MINE, OLD, FIXED_IP], [HOST_IP, WEB, MINE], id="wherever it stands"),
        pytest.param([{"name": "HOSTPORT_WEB"}], [HOST_IP, WEB], id="no value is a literal too"),
        pytest.param([{"name": "HOSTPORT_WEB", "valueFrom": None}], [HOST_IP, WEB], id="valueFrom null is none"),
        pytest.param([MINE, WEB, HOST_IP], [MINE, WEB, HOST_IP], id="right already: left alone"),
        pytest.param([DEFAULTED, WEB], [DEFAULTED, WEB], id="the API version is a default"),
        pytest.param([WEB, WEB, HOST_IP], [HOST_IP, WEB], id="twice"),
        pytest.param([WEB, MINE], [HOST_IP, WEB, MINE], id="a part of them"),
        pytest.param([FROM, MINE], [HOST_IP, FROM, MINE], id="valueFrom is the user's"),
        pytest.param([POD_IP], [WEB, POD_IP], id="another address is the user's"),
        pytest.param([MINE, FROM, OLD], [HOST_IP, MINE, FROM, OLD], id="valueFrom beside a literal: both are left"),
    ],
)
def test_what_is_there_already(env: list[Json] | None, expected: list[Json]) -> None:
    made = pod(container("a", port("web"), env=env))

    ops, _ = built(made, granted(("a", "web", 8080, 7000)))

    assert _applied(env, ops) == expected


def _applied(env: list[Json] | None, ops: list[Json]) -> list[Json]:
    found: Any = None if env is None else list(env)
    for op in ops:
        at = op["path"].removeprefix("/spec/containers/0/env").removeprefix("/")
        if not at:
            found = op["value"]
        elif op["op"] == "remove":
            del found[int(at)]
        else:
            found.insert(int(at), op["value"])
    result: list[Json] = found
    return result


def test_a_kept_value_is_warned_of_once_for_all_containers() -> None:
    made = pod(container("a", port("web"), env=[FROM]), container("b", env=[POD_IP, FROM]))

    _, warnings = built(made, granted(("a", "web", 8080, 1)))

    kept = "HOSTPORT_WEB of a, HOSTPORT_HOST_IP of b, HOSTPORT_WEB of b"
    assert warnings == [f"ENV_KEPT: valueFrom is kept, so it need not be the allocated port: {kept}"]


@pytest.mark.parametrize(
    ("ports", "held", "expected", "clash"),
    [
        pytest.param(
            [[port("x"), port("X", 81)]],
            [("a", "x", 8080, 1), ("a", "X", 81, 2)],
            {"HOSTPORT_X": "1"},
            "HOSTPORT_X",
            id="two names, one variable",
        ),
        pytest.param(
            [[port("b-c")], [port("b-c", 81), port("a-b-c", 82)]],
            [("a", "b-c", 8080, 1), ("b", "b-c", 81, 2), ("b", "a-b-c", 82, 3)],
            {"HOSTPORT_B_C": "1", "HOSTPORT_A_B_C": "3", "HOSTPORT_B_B_C": "2"},
            "HOSTPORT_A_B_C",
            id="a plain name and one with a container",
        ),
    ],
)
def test_two_ports_never_share_a_variable(
    ports: list[list[Json]], held: list[tuple[str, str, int, int]], expected: dict[str, str], clash: str
) -> None:
    made = pod(*(container(name, *each) for name, each in zip("ab", ports, strict=False)))

    _, warnings = built(made, granted(*held))

    assert variables(made, granted(*held))["a"] == expected
    remedy = "the first in port order has it: give the other a name of its own"
    assert warnings == [f"ENV_CLASH: {clash} is wanted twice; {remedy}"]


def test_a_port_called_like_the_nodes_address_is_told_to_be_renamed() -> None:
    made, held = pod(container("a", port("host-ip"))), granted(("a", "host-ip", 8080, 1))

    assert built(made, held) == (
        [{"op": "add", "path": "/spec/containers/0/env", "value": [HOST_IP]}],
        ["ENV_CLASH: HOSTPORT_HOST_IP is the node's address, and no port's: rename the port"],
    )


def test_a_port_that_appeared_comes_behind_the_others() -> None:
    made = pod(container("injected", port("web", 9)), container("a", port("web", 1)), container("b"))
    response = granted(("injected", "web", 9, 9), ("a", "web", 8080, 1))
    response.allocation.ports[0].appeared = True

    assert variables(made, response)["b"]["HOSTPORT_WEB"] == "1"


def test_one_name_in_two_containers_is_no_clash() -> None:
    made = pod(container("a", port("web")), container("b", port("web", 81)))

    _, warnings = built(made, granted(("a", "web", 8080, 1), ("b", "web", 81, 2)))

    assert warnings == []


ADDRESSES = {
    "HOSTPORT_HOST_IP": "status.hostIP",
    "HOSTPORT_EXTERNAL_IP": "metadata.annotations['hostport.io/external-ip']",
    "HOSTPORT_EXTERNAL_IP_V4": "metadata.annotations['hostport.io/external-ip-v4']",
    "HOSTPORT_EXTERNAL_IP_V6": "metadata.annotations['hostport.io/external-ip-v6']",
}


def addressed() -> AllocateResponse:
    """What a Pod is granted whose namespace has the label."""
    response = granted(("a", "web", 8080, 10000))
    response.external_address = True
    return response


def entry(name: str, path: str) -> Json:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def test_a_pod_that_will_be_told_its_address_finds_it_in_variables() -> None:
    (op,), warnings = built(pod(container("a", port("web"))), addressed())
    expected = [entry(*each) for each in ADDRESSES.items()]

    assert op["value"] == [*expected, {"name": "HOSTPORT_WEB", "value": "10000"}]
    assert warnings == []


def test_variables_with_addresses_that_are_right_already_are_left_alone() -> None:
    env = [entry(*each) for each in ADDRESSES.items()] + [{"name": "HOSTPORT_WEB", "value": "10000"}]

    assert built(pod(container("a", port("web"), env=env)), addressed()) == ([], [])


@pytest.mark.parametrize("name", ["external-ip", "external-ip-v4"])
def test_a_port_that_is_called_as_an_address_is_not_written_twice(name: str) -> None:
    """Where no address is told its number has the variable to itself."""
    variable = f"HOSTPORT_{name.upper().replace('-', '_')}"
    env = [entry("HOSTPORT_HOST_IP", "status.hostIP"), {"name": variable, "value": "10000"}]

    assert built(pod(container("a", port(name), env=env)), granted(("a", name, 8080, 10000))) == ([], [])


def test_a_variable_with_an_address_of_somebodys_own_is_kept() -> None:
    env = [{"name": "HOSTPORT_EXTERNAL_IP", "valueFrom": SECRET}]
    ops, warnings = built(pod(container("a", port("web"), env=env)), addressed())

    assert [op["value"]["name"] for op in ops] == [
        *(name for name in ADDRESSES if name != "HOSTPORT_EXTERNAL_IP"),
        "HOSTPORT_WEB",
    ]
    assert warnings == ["ENV_KEPT: valueFrom is kept, so it need not be the allocated port: HOSTPORT_EXTERNAL_IP of a"]


@pytest.mark.parametrize("name", ["external-ip", "external-ip-v4", "external-ip-v6"])
def test_an_address_of_a_former_life_is_removed(name: str) -> None:
    """It is written anew when the Pod gets its node, and where nobody does that it would be wrong."""
    obj = pod(container("a", port("web")), annotations={name: "6.6.6.6"})
    found, _ = build_patch(parse_pod(obj), granted(("a", "web", 8080, 10000)), PatchOptions())

    assert {"op": "remove", "path": f"/metadata/annotations/hostport.io~1{name}"} in msgspec.to_builtins(found)
