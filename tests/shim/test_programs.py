"""A program whose number moves: what follows by itself, what is told, and what the user can have written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shimkit import (
    FakeAllocator,
    Json,
    answering,
    body,
    container,
    decide,
    granted,
    patched,
    pod,
    port,
    review,
    run,
    shown,
)
from test_patch import PODS, http

from hostport.contract import Mistake, Notice
from hostport.contract.limits import LONGEST_WARNING
from hostport.contract.policies import POLICIES
from hostport.contract.words import listed
from hostport.v1.allocator_pb2 import POLICY_DYNAMIC
from shim.admission import REMEDIES, AdmissionAnswer, admit, warning_text
from shim.outcomes import Refusal

DYNAMIC = {"policy": "Dynamic"}
RANGED = listed([name for name, terms in POLICIES.items() if terms.has_range])
ENABLED = {"hostport.io/enabled": "true"}


def admitted(made: Json, **request: Any) -> tuple[Json, dict[str, str]]:
    """The Pod as it will be stored, and the warnings by code."""
    what = review(made, **request) if request else made
    answer = decide(what, FakeAllocator())
    assert answer.result == "patched", answer.detail
    told = {each.reason: warning_text(each).partition(": ")[2] for each in answer.warnings}
    assert all(len(warning_text(each)) <= LONGEST_WARNING for each in answer.warnings)
    return patched(made, answer), told


def notes(made: Json) -> dict[str, str]:
    found = made["metadata"]["annotations"]
    return {
        name.removeprefix("hostport.io/"): value for name, value in found.items() if name.startswith("hostport.io/")
    }


def first(made: Json) -> Json:
    found: Json = made["spec"]["containers"][0]
    return found


def variables(made: Json, at: int = 0) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in made["spec"]["containers"][at].get("env", [])}


def denied(made: Json, **options: Any) -> list[str]:
    async def nobody(request: Any) -> Any:
        raise AssertionError("nothing may be allocated")

    async def silent(request: Any) -> Refusal:
        return Refusal(403, (Mistake("X", "", ""),))

    answer = run(admit(body(made), nobody, probe=silent, **options))
    assert isinstance(answer, AdmissionAnswer)
    assert answer.result == "denied"
    return [answer.detail]


# -- a network of its own


@pytest.mark.parametrize(
    ("policy", "number"), [("Index", 7003), ("Dynamic", 20000), ("Passthrough", 8080), ("Static", 80)]
)
def test_in_a_network_of_its_own_only_the_host_port_is_set(policy: str, number: int) -> None:
    asked = port("web", 8080) | ({"hostPort": 80} if policy == "Static" else {})
    app = container("app", asked, args=["--port=8080"], livenessProbe=http(8080), readinessProbe=http(8081))
    made = pod(app, annotations={"network": "Pod", "policy": policy}, hostUsers=False, hostname="x")

    stored, told = admitted(made)

    assert stored["spec"] | {"containers": []} == made["spec"] | {"containers": []}
    assert first(stored) == app | {
        "ports": [asked | {"hostPort": number}],
        "env": [
            {"name": "HOSTPORT_HOST_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}},
            {"name": "HOSTPORT_WEB", "value": str(number)},
        ],
    }
    assert notes(stored)["allocated-web"] == str(number)
    assert told == {}


def test_host_network_contradicts_a_network_of_its_own() -> None:
    made = pod(container("app", port("web", 8080)), annotations={"network": "Pod"}, hostNetwork=True)

    assert denied(made) == [
        (
            "NETWORK_MISMATCH: spec.hostNetwork: true contradicts hostport.io/network: Pod. Remove it, or set"
            " hostport.io/network: Host"
        )
    ]


@pytest.mark.parametrize(
    ("annotations", "own", "expected"),
    [
        pytest.param({}, True, None, id="the flag says Pod"),
        pytest.param({"network": "Host"}, True, True, id="the Pod says Host"),
        pytest.param({"network": "Pod"}, False, None, id="the Pod says Pod"),
        pytest.param({}, False, True, id="the default"),
    ],
)
def test_the_default_network_is_for_pods_that_do_not_say(annotations: Json, own: bool, expected: bool | None) -> None:
    made = pod(container("app", port("web", 8080)), annotations=annotations)
    allocate = FakeAllocator()

    answer = run(admit(body(made), allocate, probe=allocate, own_network=own))

    assert isinstance(answer, AdmissionAnswer)
    assert patched(made, answer)["spec"].get("hostNetwork") is expected


@pytest.mark.parametrize(
    "spec",
    [
        {"hostUsers": False},
        {"hostnameOverride": "x"},
        {"os": {"name": "windows"}},
        {"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}},
        {"initContainers": [{"name": "istio-init"}]},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_what_host_network_forbids_is_let_in(spec: Json) -> None:
    admitted(pod(container("app", port("web", 8080)), annotations={"network": "Pod"}, **spec))


OF_THE_HOST = {
    "a field": (
        {"hostUsers": False},
        "HOST_NETWORK_FORBIDDEN: spec.hostUsers: false is not allowed with hostNetwork. Remove it, or set hostport.io/network: Pod",
    ),
    "a mesh": (
        {"initContainers": [container("istio-proxy", restartPolicy="Always")]},
        (
            "HOST_NETWORK_FORBIDDEN: spec.initContainers[0].name: istio-proxy works on the Pod's own network, which hostNetwork"
            ' replaces by the node\'s (sidecar.istio.io/inject: "false" leaves it out). Remove it, or set'
            " hostport.io/network: Pod"
        ),
    ),
    "a field beside a hostNetwork of the user's own": (
        {"hostUsers": False, "hostNetwork": True},
        "HOST_NETWORK_FORBIDDEN: spec.hostUsers: false is not allowed with hostNetwork. Remove it, or remove hostport.io/enabled",
    ),
}


@pytest.mark.parametrize(("spec", "message"), OF_THE_HOST.values(), ids=OF_THE_HOST)
def test_who_is_refused_for_the_hosts_network_is_told_of_the_pods_own(spec: Json, message: str) -> None:
    assert denied(pod(container("app", port("http")), annotations=DYNAMIC, **spec)) == [message]


def test_two_host_ports_of_one_container_port_stay_two() -> None:
    made = pod(
        container("app", port("a", 80, hostPort=8000), port("b", 80, hostPort=8001)),
        annotations={"network": "Pod", "policy": "Static"},
    )
    allocate, asked = answering(granted(("app", "a", 80, 8000), ("app", "b", 80, 8001)))

    assert [op.path for op in decide(made, allocate).ops if "ports" in op.path] == []
    assert [each.host_port for each in asked[0].ports] == [8000, 8001]


def test_many_ports_in_a_network_of_its_own_are_told() -> None:
    made = pod(container("app", *(port(f"p{at}", 1000 + at) for at in range(33))), annotations={"network": "Pod"})

    assert admitted(made)[1] == {
        "MANY_PORTS": "33 ports are more than 32, for each of which the node writes rules: starts become slow. Use fewer, or"
        " hostport.io/network: Host"
    }


@given(PODS)
def test_mutating_twice_in_a_network_of_its_own_adds_nothing(before: Json) -> None:
    before["metadata"]["annotations"]["hostport.io/network"] = "Pod"
    allocator = FakeAllocator()

    once = patched(before, decide(before, allocator))

    assert decide(once, allocator).ops == ()


@given(PODS)
def test_so_does_a_dry_run(before: Json) -> None:
    before["metadata"]["annotations"]["hostport.io/network"] = "Pod"
    for name in ("allocation-id", "allocations"):
        before["metadata"]["annotations"].pop(f"hostport.io/{name}", None)

    once = patched(before, decide(review(before, dryRun=True), FakeAllocator()))

    assert decide(review(once, dryRun=True), FakeAllocator()).ops == ()


@pytest.mark.parametrize("at", [0, 1])
def test_a_container_that_is_injected_there_stays_on_no_host(at: int) -> None:
    made = pod(container("app", port("web", 8080)), annotations={"network": "Pod"} | DYNAMIC)
    allocator = FakeAllocator()
    once = patched(made, decide(made, allocator))
    once["spec"]["containers"].insert(at, container("istio-proxy", port("prom", 15090)))

    twice = patched(once, decide(once, allocator))

    assert twice["spec"]["containers"][at]["ports"] == [port("prom", 15090)]
    assert decide(twice, allocator).ops == ()


# -- right by itself


@pytest.mark.parametrize("network", ["Host", "Pod"])
def test_one_socket_under_two_names_is_one_number_that_the_api_server_takes(network: str) -> None:
    """It refuses the same protocol, address and number twice, so that the address is spelled otherwise."""
    made = pod(container("app", port("a"), port("b"), port("c")), annotations={"network": network} | DYNAMIC)

    stored, _ = admitted(made)

    assert [(each["hostPort"], each.get("hostIP", "")) for each in first(stored)["ports"]] == [
        (20000, ""),
        (20000, "0.0.0.0"),
        (20000, "::"),
    ]
    assert (variables(stored)["HOSTPORT_A"], variables(stored)["HOSTPORT_C"]) == ("20000", "20000")


@pytest.mark.parametrize(
    ("ports", "names"),
    [
        pytest.param([port(f"p{n}") for n in range(4)], ("p0", "p3"), id="more names than spellings of the address"),
        pytest.param(
            [port("a", hostIP="10.0.0.1"), port("b", hostIP="10.0.0.1")], ("a", "b"), id="an address has one spelling"
        ),
        pytest.param(
            [port("a", hostPort=80, hostIP="10.0.0.1"), port("b", hostIP="10.0.0.1")], ("a", "b"), id="of one hostPort"
        ),
        pytest.param([port("a"), port("b"), port("c"), port("")], ("a", ""), id="one has no name"),
    ],
)
def test_more_names_of_one_socket_than_the_api_server_takes_are_denied(
    ports: list[Json], names: tuple[str, ...]
) -> None:
    at = len(ports) - 1
    assert denied(pod(container("app", *ports), annotations=DYNAMIC)) == [
        (
            f'OWN_PORTS_COLLIDE: spec.containers[0].ports[{at}]: ports "{names[0]}" and "{names[1]}" of container app are'
            " one socket, 8080/TCP, and the API server takes no such number once more: remove one of the two"
        )
    ]


def test_sockets_of_two_host_ports_may_have_three_names_each() -> None:
    ports = [port(f"p{n}", hostPort=8000 + n % 2) for n in range(6)]

    stored, _ = admitted(pod(container("app", *ports), annotations={"policy": "Static"}))

    assert len({(each["hostPort"], each.get("hostIP")) for each in first(stored)["ports"]}) == 6


@pytest.mark.parametrize(
    ("probe", "network", "avoided"),
    [
        pytest.param(http(8081), "Host", [8081], id="a number that no port has"),
        pytest.param({"tcpSocket": {"port": 8081, "host": "127.0.0.1"}}, "Host", [8081], id="on loopback"),
        pytest.param(http(8080), "Host", [], id="a declared one"),
        pytest.param(http(53), "Host", [53], id="declared for UDP alone"),
        pytest.param({"tcpSocket": {"port": 8081, "host": "x"}}, "Host", [], id="another host's"),
        pytest.param(http("web"), "Host", [], id="a name"),
        pytest.param(http(8081), "Pod", [], id="in a network of its own"),
    ],
)
def test_dynamic_is_told_what_the_pods_own_probes_name(probe: Json, network: str, avoided: list[int]) -> None:
    app = container("app", port("web"), port("dns", 53, "UDP"), livenessProbe=probe)
    allocate, asked = answering(granted(("app", "web", 8080, 7000), ("app", "dns/UDP", 53, 7001)))

    answer = decide(pod(app, annotations={"network": network} | DYNAMIC), allocate)

    assert (asked[0].policy, list(asked[0].avoid)) == (POLICY_DYNAMIC, avoided)
    assert ("UNDECLARED_PORT" in {each.reason for each in answer.warnings}) == bool(avoided)


def test_a_port_of_an_init_container_is_none_that_the_probe_of_a_program_may_ask() -> None:
    """It is over when the programs start, so that whoever answers the probe listens on a number of its own."""
    made = pod(
        container("app", port("web"), livenessProbe=http(7000)),
        annotations=DYNAMIC,
        initContainers=[container("setup", port("", 7000))],
    )
    allocate, asked = answering(granted(("app", "web", 8080, 7001)))

    told = {each.reason for each in decide(made, allocate).warnings}

    assert (list(asked[0].avoid), {"UNDECLARED_PORT", "INIT_PORT"} - told) == ([7000], set())


@pytest.mark.parametrize(
    ("policy", "probed", "is_told"),
    [
        pytest.param("Passthrough", 8083, False, id="a number of the block, which stays"),
        pytest.param("Passthrough", 8084, True, id="the number behind it"),
        pytest.param("Dynamic", 8083, True, id="a number of the block, which moves"),
    ],
)
def test_a_probe_of_a_number_that_a_block_has_is_declared(policy: str, probed: int, is_told: bool) -> None:
    app = container("app", port("web"), livenessProbe=http(probed))

    _, told = admitted(pod(app, annotations={"policy": policy, "block-web": "4"}))

    assert ("UNDECLARED_PORT" in told) == is_told


RESTORED = {
    "policy": "Dynamic",
    "allocated-8080-TCP": "7002",
    "allocations": '[{"container":"app","name":"","protocol":"TCP","containerPort":8080,"hostPort":7002}]',
    "allocation-id": "3b350089fda1a9deb88679b0071267ae",
    "warnings": "HOSTNAME_IS_NODE",
    "rewritten": "{}",
}


def test_a_restored_pod_has_its_names_and_none_of_its_numbers() -> None:
    env = [{"name": "HOSTPORT_8080", "value": "7002"}, {"name": "HOSTPORT_ADMIN", "value": "7102"}]
    app = container("app", port("", 7002, hostPort=7002), env=env, livenessProbe=http(7002), args=["$(HOSTPORT_8080)"])

    stored, told = admitted(pod(app, annotations=RESTORED, hostNetwork=True))

    assert first(stored)["ports"] == [port("", 20000, hostPort=20000)]
    assert first(stored)["livenessProbe"] == http(20000)
    assert list(variables(stored)) == ["HOSTPORT_HOST_IP", "HOSTPORT_8080"]
    assert variables(stored)["HOSTPORT_8080"] == "20000"
    assert json.loads(notes(stored)["allocations"])[0] | {"hostPort": 0} == {
        "container": "app", "name": "", "protocol": "TCP", "containerPort": 8080, "hostPort": 0,
    }  # fmt: skip
    assert (notes(stored)["allocated-8080-TCP"], notes(stored)["warnings"]) == ("20000", "FORMER_ENV")
    assert "rewritten" not in notes(stored)
    assert "7002" not in json.dumps(stored)
    assert told == {"FORMER_ENV": "numbers of another life of the Pod were removed: HOSTPORT_ADMIN of app"}


def test_a_restored_pod_in_a_network_of_its_own_too() -> None:
    app = container("app", port("", 8080, hostPort=7002), env=[{"name": "HOSTPORT_8080", "value": "7002"}])

    stored, _ = admitted(pod(app, annotations=RESTORED | {"network": "Pod"}))

    assert first(stored)["ports"] == [port("", 8080, hostPort=20000)]
    assert "7002" not in json.dumps(stored)


def test_a_restored_pod_that_comes_again_is_right_already() -> None:
    app = container("app", port("", 7002, hostPort=7002), env=[{"name": "HOSTPORT_ADMIN", "value": "7102"}])
    allocator = FakeAllocator()
    made = pod(app, annotations=RESTORED, hostNetwork=True)

    once = patched(made, decide(made, allocator))

    assert decide(once, allocator).ops == ()


# -- what is told


def test_a_hard_coded_number_is_told_with_each_place() -> None:
    made = pod(
        container(
            "app",
            port("http"),
            args=["--listen=:8080"],
            env=[{"name": "PORT", "value": "8080"}],
            readinessProbe={"exec": {"command": ["sh", "-c", "curl -sf localhost:8080/healthz"]}},
        ),
        annotations=DYNAMIC,
        initContainers=[container("wait", command=["sh", "-c", "until nc -z localhost 8080; do sleep 1; done"])],
    )
    made["metadata"]["annotations"]["prometheus.io/port"] = "8080"

    stored, told = admitted(made)

    assert told["OLD_NUMBER"] == (
        "8080 (now 20000) stands in app args[0], readinessProbe[2], env PORT; wait command[2]; prometheus.io/port:"
        " use $(HOSTPORT_HTTP), hostport.io/rewrite or hostport.io/network: Pod"
    )
    assert notes(stored)["warnings"] == "OLD_NUMBER,PORT_MOVED"


OTHERS = "8080 (now 20000) stands in side args[0]: use"
REMEDIES_OF_PLACES = {
    "in the port's own container": (
        [container("app", port("http"), args=["8080"])],
        {},
        "8080 (now 20000) stands in app args[0]: use $(HOSTPORT_HTTP), hostport.io/rewrite or hostport.io/network: Pod",
    ),
    "in another container": (
        [container("app", port("http")), container("side", args=["127.0.0.1:8080"])],
        {},
        f"{OTHERS} $(HOSTPORT_HTTP) or hostport.io/network: Pod",
    ),
    "in another container that has a port of that name": (
        [container("app", port("http")), container("side", port("http", 9090), args=["127.0.0.1:8080"])],
        {},
        f"{OTHERS} $(HOSTPORT_APP_HTTP) or hostport.io/network: Pod",
    ),
    "there with rewrite": (
        [container("app", port("http")), container("side", port("http", 9090), args=["127.0.0.1:8080"])],
        {"rewrite": "true"},
        "8080 (now 20000) stands in side args[0]: left as hostport.io/rewritten says; use $(HOSTPORT_APP_HTTP)",
    ),
    "in the port's own container, without variables": (
        [container("app", port("http"), args=["8080"])],
        {"inject-env": "false"},
        "8080 (now 20000) stands in app args[0]: use hostport.io/rewrite or hostport.io/network: Pod",
    ),
    "in another container, without variables": (
        [container("app", port("http")), container("side", args=["127.0.0.1:8080"])],
        {"inject-env": "false", "rewrite": "true"},
        "8080 (now 20000) stands in side args[0]: left as hostport.io/rewritten says",
    ),
    "for Prometheus alone": (
        [container("app", port("http"), args=["$(HOSTPORT_HTTP)"])],
        {"prometheus.io/port": "8080"},
        "8080 (now 20000) stands in prometheus.io/port: use hostport.io/rewrite or hostport.io/network: Pod",
    ),
}


@pytest.mark.parametrize(("containers", "annotations", "sentence"), REMEDIES_OF_PLACES.values(), ids=REMEDIES_OF_PLACES)
def test_what_is_to_be_done_about_an_old_number_works_where_it_stands(
    containers: list[Json], annotations: Json, sentence: str
) -> None:
    made = pod(*containers, annotations=DYNAMIC)
    made["metadata"]["annotations"] |= {
        name if "/" in name else f"hostport.io/{name}": value for name, value in annotations.items()
    }

    assert admitted(made)[1]["OLD_NUMBER"] == sentence


MOVED = "port http of container app moved from 8080 to 20000;"
UNKNOWN_VARIABLES = {
    "a variable that there is": ("$(HOSTPORT_HTTP)", {}, ""),
    "that of another port": ("$(HOSTPORT_ADMIN)", {}, ""),
    "all of them": ("env | grep ^HOSTPORT_", {}, ""),
    "a name that is put together": ("${!HOSTPORT_HT@} HOSTPORT_${NAME}", {}, ""),
    "a misspelt one": (
        "$(HOSTPORT_HTPP)", {}, f"{MOVED} nothing names HOSTPORT_HTTP: listen on it, or set hostport.io/network: Pod"
    ),
    "one that is not written": (
        "$(HOSTPORT_HTTP)",
        {"inject-env": "false"},
        f"{MOVED} hostport.io/inject-env keeps it from being told: listen on it, or set hostport.io/network: Pod",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("word", "annotations", "sentence"), UNKNOWN_VARIABLES.values(), ids=UNKNOWN_VARIABLES)
def test_only_a_variable_that_there_is_tells_a_program_its_number(word: str, annotations: Json, sentence: str) -> None:
    app, side = container("app", port("http"), args=[word]), container("side", port("admin", 99))
    made = pod(app, side, annotations=DYNAMIC | annotations)

    assert admitted(made)[1].get("PORT_MOVED", "") == sentence


LONG = "c" * 63
LONG_NAMES = {
    "PORT_MOVED": (pod(container(LONG, port("fifteen-letters")), annotations=DYNAMIC), "network: Pod"),
    "MAPPED_PORT": (
        pod(container(LONG, port("fifteen-letters", hostPort=65535)), annotations={"policy": "Static"}), "network: Pod"
    ),
    "PUBLISHED_INSIDE": (
        pod(
            container(LONG, port("fifteen-letters"), env=[{"name": "V" * 99, "value": "8080"}]),
            annotations=DYNAMIC | {"network": "Pod", "publish-fifteen-letters": f"env:{'V' * 99}"},
        ),
        "network: Host",
    ),
    "HOST_PORT_REPLACED": (
        pod(container(LONG, port("fifteen-letters", hostPort=8080)), annotations=DYNAMIC, hostNetwork=True),
        "Static or Passthrough",
    ),
}  # fmt: skip


@pytest.mark.parametrize("word", LONG_NAMES)
def test_a_long_name_does_not_push_the_remedy_out_of_a_warning(word: str) -> None:
    made, remedy = LONG_NAMES[word]

    assert admitted(made)[1][word].endswith(remedy)


NETWORK_POD = "or set hostport.io/network: Pod"
FINDINGS = {
    Notice.PORT_MOVED: (
        pod(container("app", port("http")), annotations=DYNAMIC),
        f"port http of container app moved from 8080 to 20000; nothing names HOSTPORT_HTTP: listen on it, {NETWORK_POD}",
    ),
    Notice.MAPPED_PORT: (
        pod(container("app", port("http", hostPort=80)), annotations={"policy": "Static"}),
        (
            "port http of container app was mapped from 80 to 8080; with hostNetwork nothing is: listen on 80,"
            f" {NETWORK_POD}"
        ),
    ),
    Notice.UNDECLARED_PORT: (
        pod(container("app", port("http"), livenessProbe=http(8081)), annotations=DYNAMIC),
        (
            "spec.containers[0].livenessProbe asks 8081, which no port of the Pod has: with hostNetwork it is bound on the node."
            " Declare it in ports"
        ),
    ),
    Notice.PROBE_HOST: (
        pod(
            container("app", port("http"), livenessProbe={"tcpSocket": {"port": 8080, "host": "10.0.0.1"}}),
            annotations=DYNAMIC,
        ),
        (
            "spec.containers[0].livenessProbe asks host 10.0.0.1 at 8080, and stays as it is: ask the Pod itself, or the number"
            " that it has now"
        ),
    ),
    Notice.HOSTNAME_IS_NODE: (
        pod(container("app", port("http"), command=["sh", "-c", "run --name $(hostname -f)"]), annotations=DYNAMIC),
        "command[2] of container app uses the hostname, which with hostNetwork is the node's: read metadata.name by fieldRef",
    ),
    Notice.INIT_PORT: (
        pod(container("app", port("http")), annotations=DYNAMIC, initContainers=[container("setup", port("", 8080))]),
        (
            "8080 of init container setup becomes a host port, as hostNetwork makes it: remove it from ports if nothing listens"
            " there"
        ),
    ),
    Notice.HOST_PORT_REPLACED: (
        pod(container("app", port("http", 80, hostPort=80)), annotations=DYNAMIC, hostNetwork=True),
        (
            "hostPort 80 of port http of container app became 20000: with hostNetwork it counts as unset. To keep it use policy"
            " Static or Passthrough"
        ),
    ),
    Notice.PUBLISHED_INSIDE: (
        pod(
            container("app", port("http"), env=[{"name": "PORT", "value": "8080"}, {"name": "TOLD", "value": "1"}]),
            annotations=DYNAMIC | {"network": "Pod", "publish-http": "env:PORT, env:TOLD, env:NEW, label:x.example/p"},
        ),
        (
            "variable PORT of container app was 8080, as port http is inside the Pod, and is 20000 now: publish into another,"
            " or set hostport.io/network: Host"
        ),
    ),
    Notice.UNKNOWN_ANNOTATION: (
        pod(container("app", port("http")), annotations=DYNAMIC | {"minPort": "9000"}),
        "annotation hostport.io/minPort is unknown and does nothing; did you mean hostport.io/min-port?",
    ),
    Notice.UNUSED_SETTING: (
        pod(container("app", port("http")), annotations={"policy": "Passthrough", "min-port": "9000", "stride": "5"}),
        (
            f"hostport.io/min-port (only {RANGED} have a range), hostport.io/stride (only Index has one) has no effect:"
            " remove it"
        ),
    ),
}


@pytest.mark.parametrize("notice", FINDINGS, ids=lambda notice: notice.name)
def test_a_finding_says_what_where_and_what_to_do_and_stands_in_the_pod(notice: Notice) -> None:
    made, sentence = FINDINGS[notice]
    allocator = FakeAllocator()
    answer = decide(made, allocator)
    stored = patched(made, answer)

    assert {each.reason: each.message for each in answer.warnings}[notice.name] == sentence
    codes = notes(stored)["warnings"].split(",")
    assert notice.name in codes
    assert shown(answer)["response"]["auditAnnotations"]["warnings"] == ",".join(codes)
    assert decide(stored, allocator).ops == (), "what was told stays told"


@pytest.mark.parametrize(
    "app",
    [
        pytest.param({"args": ["$(HOSTPORT_HTTP)"]}, id="an argument"),
        pytest.param({"env": [{"name": "PORT", "value": "$(HOSTPORT_HTTP)"}]}, id="a variable"),
        pytest.param(
            {"env": [{"name": "P", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['hostport.io/allocated-http']"}}}]},
            id="the downward API",
        ),
        pytest.param({"lifecycle": {"postStart": {"exec": {"command": ["$(HOSTPORT_HTTP)"]}}}}, id="a hook"),
    ],
)  # fmt: skip
def test_a_pod_that_names_its_variable_is_told_nothing(app: Json) -> None:
    assert admitted(pod(container("app", port("http"), **app), annotations=DYNAMIC))[1] == {}


@pytest.mark.parametrize(
    "word",
    ["18080", "80800", "8080m", "v1.8080", "1.8080.2", "8080-8090", "p8080", "web-8080", "8080_x", "0x8080", "--8080", "-m8080",
     "$(HOSTPORT_HTTP)+8080", "8080%", "10.0.0.7:6379@8080", "#8080"],
)  # fmt: skip
def test_a_part_of_a_word_is_no_number(word: str) -> None:
    made = pod(container("app", port("http"), args=[word, "$(HOSTPORT_HTTP)"]), annotations=DYNAMIC)

    assert admitted(made)[1] == {}


@pytest.mark.parametrize(
    "word", ["$(hostname)", "cat /etc/hostname", "/bin/hostname -f", "$HOSTNAME", "${HOSTNAME%-*}"]
)
def test_what_reads_the_hostname_is_told(word: str) -> None:
    made = pod(container("app", port("http"), args=[word, "$(HOSTPORT_HTTP)"]), annotations=DYNAMIC)

    assert list(admitted(made)[1]) == ["HOSTNAME_IS_NODE"]


NAMES_ITSELF = {
    "a field": ({"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, "$(HOSTNAME)", []),
    "a literal": ({"value": "web"}, "${HOSTNAME}", []),
    "a command all the same": ({"value": "web"}, "$(hostname)", ["HOSTNAME_IS_NODE"]),
}


@pytest.mark.parametrize(("source", "word", "told"), NAMES_ITSELF.values(), ids=NAMES_ITSELF)
def test_a_variable_hostname_that_the_container_sets_is_not_the_nodes(source: Json, word: str, told: list[str]) -> None:
    app = container("app", port("http"), args=[word, "$(HOSTPORT_HTTP)"], env=[{"name": "HOSTNAME"} | source])

    assert list(admitted(pod(app, annotations=DYNAMIC))[1]) == told


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.0.0.5", "::1"])
def test_a_probe_of_loopback_follows(host: str) -> None:
    probe = {"livenessProbe": {"tcpSocket": {"port": 8080, "host": host}}}

    stored, told = admitted(
        pod(container("app", port("http"), args=["$(HOSTPORT_HTTP)"], **probe), annotations=DYNAMIC)
    )

    assert (first(stored)["livenessProbe"]["tcpSocket"]["port"], told) == (20000, {})


@pytest.mark.parametrize(
    "word", ["--hostname=x", "hostname.example", "my-hostname", '{"hostname": "x"}', "HOSTNAMES", "the_hostname"]
)
def test_a_word_with_hostname_in_it_uses_none(word: str) -> None:
    made = pod(container("app", port("http"), args=[word, "$(HOSTPORT_HTTP)"]), annotations=DYNAMIC)

    assert "HOSTNAME_IS_NODE" not in admitted(made)[1]


# -- rewrite

REWRITE = DYNAMIC | {"rewrite": "true"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("8080", "20000", id="the number"),
        pytest.param("--listen=:8080", "--listen=:20000", id="a flag"),
        pytest.param("0.0.0.0:8080", "0.0.0.0:20000", id="every address"),
        pytest.param("[::]:8080", "[::]:20000", id="every address of IPv6"),
        pytest.param("http://localhost:8080/x", "http://localhost:20000/x", id="an address of its own"),
        pytest.param("http://$(POD_IP):8080", "http://$(POD_IP):20000", id="its own address by a variable"),
        pytest.param("web-3.web.demo:8080", "web-3.web.demo:20000", id="its own name"),
        pytest.param('{"port":8080}', '{"port":20000}', id="JSON"),
        pytest.param("TCP-LISTEN:8080,fork", "TCP-LISTEN:20000,fork", id="socat"),
        pytest.param("/ip4/0.0.0.0/tcp/8080", "/ip4/0.0.0.0/tcp/20000", id="a multiaddress"),
        pytest.param("TCP4-LISTEN:8080,fork", "TCP4-LISTEN:20000,fork", id="socat on one family"),
        pytest.param("</dev/tcp/127.0.0.1/8080", "</dev/tcp/127.0.0.1/20000", id="bash"),
        pytest.param("</dev/tcp/peer/8080", None, id="bash, to a peer"),
        pytest.param("--port=${PORT:-8080}", "--port=${PORT:-20000}", id="a default of the shell"),
        pytest.param("http://peer:${PORT:-8080}", None, id="a default behind a peer"),
        pytest.param("db-cli -h db -p ${PORT:-8080}", None, id="a default behind a peer of a client"),
        pytest.param("${BIND:-0.0.0.0}:8080", "${BIND:-0.0.0.0}:20000", id="an address that is every one by default"),
        pytest.param("${POD_IP:-10.0.0.1}:8080", "${POD_IP:-10.0.0.1}:20000", id="its own address with a default"),
        pytest.param("${DB:-localhost}:8080", None, id="a peer with a default"),
        pytest.param("http://$(hostname -i):8080", "http://$(hostname -i):20000", id="its own address by a command"),
        pytest.param("$(hostname).web:8080", "$(hostname).web:20000", id="its own name by a command"),
        pytest.param("$(get-peer):8080", None, id="a peer by a command"),
        pytest.param("serve -p8080", "serve -p20000", id="an option without a space"),
        pytest.param("db-cli -h db -p8080", None, id="an option without a space of a client"),
        pytest.param("mysql -hdb -P8080", None, id="two options without a space of a client"),
        pytest.param("mysql -h127.0.0.1 -P8080", "mysql -h127.0.0.1 -P20000", id="two of one that asks itself"),
        pytest.param("serve -heap -p8080", "serve -heap -p20000", id="an option of a server that begins like a host"),
        pytest.param('{"offset":-8080}', None, id="a negative number"),
        pytest.param("8080,8080 8080", "20000,20000 20000", id="each of them"),
        pytest.param("8080 9090", "20000 20001", id="two numbers"),
        pytest.param("peer-1:8080", None, id="a peer"),
        pytest.param("http://web-1.web:8080", None, id="a peer with a name like ours"),
        pytest.param("$(MASTER_ADDR):8080", None, id="a peer by a variable"),
        pytest.param("10.0.0.7:8080", None, id="a peer's address"),
        pytest.param("nc -z peer 8080", None, id="a peer that is asked"),
        pytest.param(
            "until nc -z localhost 8080; do sleep 1; done",
            "until nc -z localhost 20000; do sleep 1; done",
            id="it asks itself",
        ),
        pytest.param("serve 8080", "serve 20000", id="behind a program"),
        pytest.param("node server.js 8080", "node server.js 20000", id="behind a file"),
        pytest.param("python -m http.server 8080", "python -m http.server 20000", id="behind a module"),
        pytest.param("--replicaof db-0.db 8080", None, id="a primary"),
        pytest.param("db-cli -h db -p 8080", None, id="a peer by an option of a client"),
        pytest.param("host=db port=8080", None, id="a peer by a keyword"),
        pytest.param("serve --host db-0.db --port 8080", None, id="a name of a peer by an option"),
        pytest.param("httpd -h /tmp -p 8080", "httpd -h /tmp -p 20000", id="an option that names a folder"),
        pytest.param("httpd -h tmp -p 8080", "httpd -h tmp -p 20000", id="an option of a server"),
        pytest.param(
            "serve --host 0.0.0.0 --port 8080", "serve --host 0.0.0.0 --port 20000", id="its own by an option"
        ),
        pytest.param("ping -h db; serve --port 8080", "ping -h db; serve --port 20000", id="behind another program"),
        pytest.param("/data/8080/db", None, id="a path"),
        pytest.param("8080:8080", None, id="a pair"),
        pytest.param("0.0.0.0:8080:80", None, id="a pair behind an address"),
        pytest.param("chown 8080:9090 /data", None, id="two ids"),
        pytest.param("fd00::8080", None, id="the end of an address of IPv6"),
        pytest.param("2001:8080::1", None, id="the middle of one"),
        pytest.param("[fd00::8080]:7", None, id="one in brackets"),
        pytest.param("18080", None, id="a part of a word"),
    ],
)
def test_whole_numbers_of_the_pods_own_are_rewritten(before: str, after: str | None) -> None:
    made = pod(
        container("app", port("http"), port("admin", 9090), args=[before], env=[{"name": "X", "value": before}]),
        annotations=REWRITE,
    )

    stored, _ = admitted(made)

    assert (first(stored)["args"], variables(stored)["X"]) == ([after or before], after or before)


SET_VARIABLES = {
    "ours": ("HOSTPORT_HTTP", {}),
    "one with ours in it": ("PORT", {"env": [{"name": "PORT", "value": "$(HOSTPORT_HTTP)"}]}),
    "one that is published": ("SERVER_PORT", {"args": ["$(HOSTPORT_HTTP)"]}),
}


@pytest.mark.parametrize(("name", "more"), SET_VARIABLES.values(), ids=SET_VARIABLES)
def test_the_default_of_a_variable_that_is_set_is_no_old_number(name: str, more: Json) -> None:
    app = container("app", port("http"), command=["sh", "-c", f"serve --port ${{{name}:-8080}}"], **more)
    made = pod(app, annotations=DYNAMIC | {"publish-http": "env:SERVER_PORT"})

    assert admitted(made)[1] == {}


FIELDS = {
    "status.podIP": "20000",
    "status.hostIP": "20000",
    "metadata.name": "20000",
    "spec.nodeName": "20000",
    "metadata.labels['peer']": "8080",
}


@pytest.mark.parametrize(("path", "number"), FIELDS.items(), ids=FIELDS)
def test_a_variable_is_the_pods_own_host_where_it_is_a_field_that_is(path: str, number: str) -> None:
    app = container("app", port("http"), args=["--advertise=$(ME):8080"])
    app["env"] = [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": path}}}]
    made = pod(app, container("side", args=["$(ME):8080"]), annotations=REWRITE)

    stored, _ = admitted(made)

    assert [each["args"] for each in stored["spec"]["containers"]] == [[f"--advertise=$(ME):{number}"], ["$(ME):8080"]]


def test_a_peer_may_stand_in_the_words_before_a_number() -> None:
    words = ["db-server", "--port", "8080", "--replicaof", "db-0.db", "8080"]
    made = pod(container("app", port("http"), args=words), annotations=REWRITE)

    assert first(admitted(made)[0])["args"] == ["db-server", "--port", "20000", "--replicaof", "db-0.db", "8080"]


def test_what_was_rewritten_and_what_was_left_is_listed() -> None:
    app = container(
        "app",
        port("http"),
        command=["run", "8080"],
        env=[{"name": "PEER", "value": "peer:8080"}, {"name": "PORT", "value": "8080"}],
        livenessProbe={"exec": {"command": ["nc", "-z", "localhost", "8080"]}},
        lifecycle={"preStop": {"exec": {"command": ["stop", "8080"]}}},
    )
    made = pod(app, container("side", args=["8080"]), annotations=REWRITE)
    made["metadata"]["annotations"]["prometheus.io/port"] = "8080"

    stored, told = admitted(made)

    assert json.loads(notes(stored)["rewritten"]) == {
        "replaced": [
            "app command[1]: 8080 -> 20000",
            "app livenessProbe[3]: 8080 -> 20000",
            "app preStop[1]: 8080 -> 20000",
            "app env PORT: 8080 -> 20000",
            "prometheus.io/port: 8080 -> 20000",
        ],
        "left": ["app env PEER: 8080, of another host", "side args[0]: 8080, of another container's port"],
    }
    assert stored["metadata"]["annotations"]["prometheus.io/port"] == "20000"
    assert first(stored)["livenessProbe"]["exec"]["command"] == ["nc", "-z", "localhost", "20000"]
    assert told["OLD_NUMBER"] == (
        "8080 (now 20000) stands in app env PEER; side args[0]: left as hostport.io/rewritten says; use $(HOSTPORT_HTTP)"
    )
    assert "PORT_MOVED" not in told


@given(PODS, st.lists(st.sampled_from(["80", ":81", "peer:8080", "10000 10003", "x"]), max_size=4))
def test_mutating_twice_with_rewriting_adds_nothing(before: Json, words: list[str]) -> None:
    before["metadata"]["annotations"]["hostport.io/rewrite"] = "true"
    for each in before["spec"]["containers"]:
        each["args"] = words
    allocator = FakeAllocator()

    once = patched(before, decide(before, allocator))

    assert decide(once, allocator).ops == ()


def test_numbers_that_swap_are_rewritten_at_once() -> None:
    made = pod(container("app", port("a", 80), port("b", 81), args=["80 81"]), annotations=REWRITE)
    allocate, _ = answering(granted(("app", "a", 80, 81), ("app", "b", 81, 80)))

    assert first(patched(made, decide(made, allocate)))["args"] == ["81 80"]


# -- publish


def publishing(targets: str, **more: Any) -> Json:
    app = container("app", port("game", 7777, "UDP"), env=[{"name": "SERVER_PORT", "value": "7777"}])
    return pod(app, annotations=DYNAMIC | {"publish-game": targets}, **more)


def test_a_number_is_written_where_the_program_looks() -> None:
    made = publishing("env:SERVER_PORT, annotation:prometheus.io/port,label:example.com/port")

    stored, told = admitted(made)

    assert [each for each in first(stored)["env"] if each["name"] == "SERVER_PORT"] == [
        {"name": "SERVER_PORT", "value": "20000"}
    ]
    assert stored["metadata"]["annotations"]["prometheus.io/port"] == "20000"
    assert stored["metadata"]["labels"] == {"example.com/port": "20000"}
    assert told == {}


@pytest.mark.parametrize("rewrite", ["true", "false"])
def test_an_old_number_that_is_published_over_is_not_told(rewrite: str) -> None:
    made = publishing("env:SERVER_PORT, annotation:prometheus.io/port")
    made["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP"
    made["metadata"]["annotations"] |= {"prometheus.io/port": "7777", "hostport.io/rewrite": rewrite}

    stored, told = admitted(made)

    assert stored["metadata"]["annotations"]["prometheus.io/port"] == "20000"
    assert told == {}


def test_published_numbers_stay_as_they_are_when_the_pod_comes_again() -> None:
    allocator = FakeAllocator()
    made = publishing("env:SERVER_PORT,label:example.com/port")

    once = patched(made, decide(made, allocator))

    assert decide(once, allocator).ops == ()


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("network", ["Host", "Pod"])
@pytest.mark.parametrize("name", ["http", "8080"])
def test_a_port_of_that_name_that_another_webhook_adds_has_no_say(name: str, network: str, at: int) -> None:
    named = port("" if name == "8080" else name)
    notes = DYNAMIC | {"network": network, f"publish-{name}": "env:PORT, label:example.com/port"}
    before = pod(container("app", named), annotations=notes)
    allocator = FakeAllocator()

    once = patched(before, decide(before, allocator))
    once["spec"]["containers"].insert(at, container("mesh", named | {"hostPort": 8080}))
    twice = patched(once, decide(once, allocator))

    assert (variables(twice, 1 - at)["PORT"], "PORT" in variables(twice, at)) == ("20000", False)
    assert twice["metadata"]["labels"] == {"example.com/port": "20000"}
    assert decide(twice, allocator).ops == ()


def test_only_the_ports_own_container_gets_the_variable() -> None:
    made = pod(
        container("app", port("game")),
        container("side"),
        annotations=DYNAMIC | {"publish-game": "env:P", "inject-env": "false"},
    )

    stored, _ = admitted(made)

    assert (variables(stored, 0), variables(stored, 1)) == ({"P": "20000"}, {})


def test_a_published_variable_with_value_from_is_kept_and_told() -> None:
    source = {"configMapKeyRef": {"name": "c", "key": "k"}}
    made = pod(
        container("app", port("game"), env=[{"name": "P", "valueFrom": source}]),
        annotations=DYNAMIC | {"publish-game": "env:P"},
    )

    assert admitted(made)[1]["ENV_KEPT"] == "valueFrom is kept, so it need not be the allocated port: P of app"


@pytest.mark.parametrize("name", ["8080", "app-8080"])
def test_an_unnamed_port_is_called_by_its_number(name: str) -> None:
    made = pod(container("app", port()), annotations=DYNAMIC | {f"publish-{name}": "env:P"})

    assert variables(admitted(made)[0])["P"] == "20000"


@pytest.mark.parametrize(
    ("name", "targets", "words"),
    [
        pytest.param("nosuch", "env:P", 'the Pod has no port "nosuch". Name one of: game, twice', id="no such port"),
        pytest.param("twice", "env:P", "Name the container too: hostport.io/publish-app-twice", id="two of a name"),
        pytest.param("game", "P", '"P" is no target: write env:NAME, annotation:KEY or label:KEY', id="no kind"),
        pytest.param("game", "", '"" is no target', id="nothing"),
        pytest.param("game", "env:A-B", '"A-B" is no name of a variable', id="no variable"),
        pytest.param("game", "env:HOSTPORT_X", "variable HOSTPORT_X may not be written", id="a variable of ours"),
        pytest.param("game", "env:LD_PRELOAD", "variable LD_PRELOAD may not be written", id="one that loads code"),
        pytest.param("game", "annotation:hostport.io/enabled", "others act on it", id="a key of ours"),
        pytest.param("game", "annotation:x.kubernetes.io/a", "others act on it", id="a key of Kubernetes"),
        pytest.param("game", "label:k8s.io/a", "others act on it", id="another"),
        pytest.param("game", "annotation:sidecar.istio.io/inject", "others act on it", id="one that injects"),
        pytest.param("game", "annotation:example.com/inject-me", "others act on it", id="another that injects"),
        pytest.param("game", "annotation:iam.amazonaws.com/role", "others act on it", id="one that grants"),
        pytest.param("game", "label:app", "workloads select by such: write example.com/app", id="a selector"),
        pytest.param("game", "annotation:a b", '"a b" is no key of an annotation', id="no key"),
    ],
)
def test_a_target_that_may_not_be_written_is_denied_before_anything_is_allocated(
    name: str, targets: str, words: str
) -> None:
    made = pod(
        container("app", port("game"), port("twice", 1)),
        container("b", port("twice", 2)),
        annotations=DYNAMIC | {f"publish-{name}": targets},
    )

    (detail,) = denied(made)

    assert detail.startswith(f"PUBLISH_INVALID: annotation hostport.io/publish-{name}: ")
    assert words in detail


SCRAPED = {
    "in a network of its own": ("Pod", 8080, (
        "annotation prometheus.io/port says 20000, and Prometheus asks the Pod's own address, where port http is 8080: leave"
        " that target out, or set hostport.io/network: Host"
    )),
    "in a network of its own, on the same number": ("Pod", 20000, None),
    "on the host's": ("Host", 8080, None),
}  # fmt: skip


@pytest.mark.parametrize(("network", "number", "sentence"), SCRAPED.values(), ids=SCRAPED)
def test_who_publishes_for_prometheus_is_told_where_it_asks(network: str, number: int, sentence: str | None) -> None:
    annotations = DYNAMIC | {"network": network, "publish-http": "annotation:prometheus.io/port"}

    stored, told = admitted(pod(container("app", port("http", number)), annotations=annotations))

    assert stored["metadata"]["annotations"]["prometheus.io/port"] == "20000"
    assert told.get("PUBLISHED_INSIDE") == sentence


def test_two_ports_do_not_share_a_target() -> None:
    made = pod(
        container("app", port("a", 1), port("b", 2)),
        annotations=DYNAMIC | {"publish-a": "env:P", "publish-b": "env:P"},
    )

    assert "env:P is wanted by two ports" in denied(made)[0]


# -- refusals


def refused_with(reason: str, made: Json, field: str = "ports") -> str:
    return decide(made, answering(Refusal(403, (Mistake(reason, field, "no"),)))[0]).detail


@pytest.mark.parametrize("reason", sorted(REMEDIES))
def test_a_refusal_says_what_to_do_in_the_words_of_annotations(reason: str) -> None:
    assert refused_with(reason, pod(container("app", port()))).startswith(f"{reason}: no. {REMEDIES[reason]}")
    assert "hostport.io/" in REMEDIES[reason]


@pytest.mark.parametrize("reason", ["NUMBER_BEYOND_RANGE", "PORT_RESERVED"])
def test_who_wrote_a_number_is_not_told_of_a_range_that_plays_no_part(reason: str) -> None:
    detail = refused_with(reason, pod(container("app", port(hostPort=65500))), "ports[0]")

    assert "min-port" not in detail
    assert detail.startswith(f"{reason}: spec.containers[0].ports[0]: no")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("PORT_CONFLICT", "PORT_CONFLICT: no"),
        ("RANGE_EXHAUSTED", f"RANGE_EXHAUSTED: no. {REMEDIES['RANGE_EXHAUSTED']}"),
    ],
)
def test_a_refusal_that_ends_by_itself_names_how_to_wait(reason: str, said: str) -> None:
    waits = 'hostport.io/when-full: "Pending" lets the Pod wait and start when there is room'
    app = container("app", port())

    assert refused_with(reason, pod(app, annotations=DYNAMIC)) == f"{said}. {waits}"
    assert refused_with(reason, pod(app, annotations=DYNAMIC | {"when-full": "Pending"})) == said


def test_a_refusal_of_a_number_tells_where_its_index_comes_from() -> None:
    app = container("app", port())
    chance = 'The index is the end of metadata.name, "web-24567": it may be there by chance'

    assert refused_with(
        "NUMBER_BEYOND_RANGE", pod(app, metadata={"name": "web-24567", "annotations": ENABLED})
    ).endswith(chance)
    labelled = pod(app)
    labelled["metadata"]["labels"] = {"apps.kubernetes.io/pod-index": "3"}
    assert "by chance" not in refused_with("NUMBER_BEYOND_RANGE", labelled)


@pytest.mark.parametrize("reason", ["PORT_CONFLICT", "HELD_BY_SERVICE"])
def test_a_refusal_of_a_number_that_its_author_wrote_tells_nothing_of_an_index(reason: str) -> None:
    asked = pod(container("app", port(hostPort=7777)), metadata={"name": "web-24567", "annotations": ENABLED})

    assert "by chance" in refused_with(reason, asked, "ports")
    detail = refused_with(reason, asked, "ports[0].host_port")
    assert "by chance" not in detail
    assert detail.startswith(f"{reason}: spec.containers[0].ports[0].hostPort: no")


def test_a_copy_without_an_index_is_told_what_it_is() -> None:
    copy = pod(container("app", port()), annotations={"allocation-id": "a" * 32})
    copy["metadata"]["name"] = "db-0-copy"

    assert "The Pod is a copy or was restored (kubectl debug --copy-to, a backup)" in refused_with("NO_INDEX", copy)


@pytest.mark.parametrize(
    ("ports", "is_told"),
    [
        pytest.param([port("web", 7002)], True, id="its numbers are those of another Pod"),
        pytest.param([port("web", 7002), port("proxy", 15090)], False, id="another webhook's port is not"),
        pytest.param([port("web", 8080)], False, id="none of them is"),
    ],
)
def test_a_copy_that_meets_the_pod_it_was_made_of_is_told_what_it_is(ports: list[Json], is_told: bool) -> None:
    table = '[{"container":"app","name":"web","protocol":"TCP","containerPort":8080,"hostPort":7002}]'
    copy = pod(container("app", *ports), annotations={"policy": "Passthrough", "allocations": table})

    detail = refused_with("PORT_CONFLICT", copy)

    assert ("The Pod is a copy or was restored" in detail and "has no number of its own" in detail) == is_told
