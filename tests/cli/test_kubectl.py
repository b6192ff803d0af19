"""The way through kubectl: what is asked of it, how its failures read, and that nothing is left running.

A stand-in takes kubectl's place, since a port cannot be forwarded without a kubelet; its words are kubectl's own. The
real one is used against a real API server in tests/e2e.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from access.reviewing import ReviewServer, account
from access.secured import Secured
from clikit import Ended, hostport_here, in_loop

from allocator.access.guard import EVERYWHERE
from hostport_cli.kubectl import Kubectl, KubectlError, together
from testing.waiting import until

STAND_IN = f"""#!{sys.executable}
import json, os, sys, time
arguments = sys.argv[1:]
with open(os.environ["KUBECTL_LOG"], "a") as log:
    log.write(json.dumps([os.getpid(), *arguments]) + "\\n")
words = [word for word in arguments if not word.startswith("-")]
for key, (out, err, code) in json.loads(os.environ["KUBECTL_SAYS"]).items():
    if key in " ".join(words):
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.stdout.flush()
        while code is None:
            time.sleep(60)
        sys.exit(code)
sys.exit(f"error: unexpected: {{arguments}}")
"""
NO_CLUSTER = "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?\n"
NO_KUBECONFIG = "The connection to the server localhost:8080 was refused - did you specify the right host or port?\n"
NO_TOKEN_SERVER = (
    'error: failed to create token: Post "http://localhost:8080/api/v1/namespaces/hostport-system/serviceaccounts/'
    'hostport-cli/token": dial tcp 127.0.0.1:8080: connect: connection refused\n'
)
NO_CONTEXT = "error: current-context must exist in order to minify\n"
NO_PLUG_IN = """\
E1130 07:46:34.561412   19043 memcache.go:265] "Unhandled Error" err=<
	couldn't get current server API group list: Get "https://127.0.0.1:1/api": getting credentials: exec: not found

	It looks like you are trying to use a client-go credential plugin that is not installed.
 >
Unable to connect to the server: getting credentials: exec: executable aws not found

It looks like you are trying to use a client-go credential plugin that is not installed.

To learn more about this feature, consult the documentation available at:
      https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""
FORBIDDEN_IN_TWO = 'Error from server (Forbidden): pods is forbidden by policy:\nUser "eve" cannot list\n\nAsk them.\n'
FORBIDDEN_TOKEN = (
    'error: failed to create token: serviceaccounts "hostport-cli" is forbidden: User "eve" cannot create resource\n'
)
LOGGED = 'E1130 07:46:35.098934   19076 memcache.go:265] "Unhandled Error" err="it broke"\n'
FORBIDDEN = 'Error from server (Forbidden): pods "web-0" is forbidden: User "eve" cannot get resource "pods"\n'
MISSING = 'Error from server (NotFound): services "hostport-allocator" not found\n'


class StandIn:
    """What kubectl is to say, and what was asked of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = folder / "kubectl"
        program.write_text(STAND_IN, encoding="utf-8")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self._log = folder / "asked"
        self._environ = monkeypatch
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("KUBECTL_LOG", str(self._log))

    def says(self, **answers: tuple[str, str, int | None]) -> None:
        """By words of the command line, `_` for a space: stdout, stderr and exit status; None: it goes on."""
        told = {key.replace("_", " "): answer for key, answer in answers.items()}
        self._environ.setenv("KUBECTL_SAYS", json.dumps(told))

    @property
    def asked(self) -> list[list[str]]:
        return [json.loads(line)[1:] for line in self._log.read_text(encoding="utf-8").splitlines()]

    def still_running(self) -> list[int]:
        pids = [json.loads(line)[0] for line in self._log.read_text(encoding="utf-8").splitlines()]
        time.sleep(0.05)
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


@pytest.fixture
async def secured() -> AsyncIterator[Secured]:
    """An allocator as in a cluster: TLS, tokens, and rights that are reviewed."""
    server = ReviewServer()
    await server.start()
    made = Secured(server)
    await made.start()
    yield made
    await made.stop()
    await server.stop()


async def test_the_allocator_of_the_cluster_is_reached_with_a_token_that_kubectl_makes_and_a_port_that_it_forwards(
    secured: Secured, kubectl: StandIn
) -> None:
    viewer = account("hostport-system", "hostport-cli")
    secured.server.add("made-by-kubectl", viewer)
    secured.server.grant(viewer, "get list", EVERYWHERE)
    bundle = base64.b64encode(secured.authority.cert_pem.bytes()).decode()
    kubectl.says(
        **{
            "create token": ("made-by-kubectl\n", "", 0),
            "port-forward": (f"Forwarding from 127.0.0.1:{secured.token_port} -> 50052\n", "", None),
            "get": (json.dumps({"webhooks": [{"clientConfig": {"caBundle": bundle}}]}), "", 0),
        }
    )

    ended = await in_loop("node", "--context=blue", "--server-name=localhost")

    assert ended == Ended(0, "NODE        ALLOCATIONS   PORTS   KNOWN\nlocalhost   0             0       yes\n")
    assert kubectl.asked == [
        ["--context=blue", "create", "token", "hostport-cli", "--namespace=hostport-system", "--audience=hostport.io"],
        [
            "--context=blue", "port-forward", "--namespace=hostport-system", "--address=127.0.0.1",
            "service/hostport-allocator", ":grpc-tokens",
        ],
        [
            "--context=blue", "get", "--raw",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/hostport-operator",
            "--request-timeout=10s",
        ],
    ]  # fmt: skip
    assert kubectl.still_running() == []


@pytest.mark.parametrize(
    "wrong",
    ["error: lost connection to pod\n", "E1130 an error occurred forwarding 40123 -> 50051\n" * 1500],
    ids=["its Pod has gone", "kubectl said more than a pipe holds"],
)
async def test_a_forward_that_ends_is_begun_again_at_the_same_address(kubectl: StandIn, wrong: str) -> None:
    """An allocator that is replaced takes kubectl with it: a watch, or a lease of hours, would never hear of the next."""
    kubectl.says(**{"port-forward": ("Forwarding from 127.0.0.1:40123 -> 50051\n", wrong, 1)})

    async with Kubectl().forward("ours", "service/hostport-allocator", "grpc", pace=0.01) as address:
        await until(lambda: len(kubectl.asked) >= 3)

    flags = ["port-forward", "--namespace=ours", "--address=127.0.0.1", "service/hostport-allocator"]
    assert address == "127.0.0.1:40123"
    assert kubectl.asked[:3] == [[*flags, ":grpc"], [*flags, "40123:grpc"], [*flags, "40123:grpc"]]
    assert kubectl.still_running() == []


async def test_a_token_is_made_anew_before_it_ends(kubectl: StandIn) -> None:
    """One of kubectl's lives for an hour: a command that runs for longer would lose its lease with it."""
    kubectl.says(create_token=("first\n", "", 0))

    async with Kubectl().tokens("relay", "media", "hostport.io", pace=0.01) as token:
        shown = [token()]
        kubectl.says(create_token=("", NO_CLUSTER, 1))  # for a while nobody makes one: the former holds
        asked = len(kubectl.asked)
        await until(lambda: len(kubectl.asked) >= asked + 3)
        shown.append(token())
        kubectl.says(create_token=("second\n", "", 0))
        await until(lambda: token() != "first")
        shown.append(token())

    assert shown == ["first", "first", "second"]
    assert kubectl.still_running() == []


async def test_who_may_not_is_told_which_right_is_missing(secured: Secured, kubectl: StandIn, tmp_path: Path) -> None:
    secured.server.add("no-rights", account("media", "relay"))
    (tmp_path / "token").write_text("no-rights", encoding="utf-8")
    secured.authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    where = (f"--server=localhost:{secured.token_port}", f"--ca={tmp_path}/ca.crt", f"--token-file={tmp_path}/token")

    ended = await in_loop("node", *where)

    assert (ended.code, ended.out) == (6, "")
    assert ended.err.startswith("error: PERMISSION_DENIED: ")
    assert "portleases.hostport.io" in ended.err


NO_CLUSTER_KNOWN = Ended(
    5,
    "",
    "error: kubectl knows no cluster: there is no kubeconfig, or it has no current context. Name one by --kubeconfig or "
    "KUBECONFIG, its context by --context, or the allocator by --server\n",
)

FAILURES: dict[str, tuple[dict[str, tuple[str, str, int | None]], list[str], Ended]] = {
    "no cluster": (
        {"create_token": ("", NO_CLUSTER, 1), "config": ("demo", "", 0)},
        ["list"],
        Ended(5, "", f"error: kubectl: {NO_CLUSTER}"),
    ),
    "no installation": (
        {"create_token": ("", 'error: failed to create token: serviceaccounts "hostport-cli" not found\n', 1)},
        ["node"],
        Ended(5, "", 'error: kubectl: failed to create token: serviceaccounts "hostport-cli" not found\n'),
    ),
    "no Service": (
        {"create_token": ("t\n", "", 0), "port-forward": ("", MISSING, 1)},
        ["node"],
        Ended(3, "", 'error: kubectl: services "hostport-allocator" not found\n'),
    ),
    "no kubeconfig": ({"create_token": ("", NO_KUBECONFIG, 1)}, ["node"], NO_CLUSTER_KNOWN),
    "no kubeconfig, and a token is wanted": ({"create_token": ("", NO_TOKEN_SERVER, 1)}, ["node"], NO_CLUSTER_KNOWN),
    "no context": ({"config": ("", NO_CONTEXT, 1)}, ["list"], NO_CLUSTER_KNOWN),
    "a plug-in that is not there": (
        {"create_token": ("", NO_PLUG_IN, 1)},
        ["node"],
        Ended(
            5,
            "",
            "error: kubectl: Unable to connect to the server: getting credentials: exec: executable aws not found\n",
        ),
    ),
    "a refusal on two lines": (
        {"create_token": ("", f"{LOGGED}{FORBIDDEN_IN_TWO}", 1)},
        ["node"],
        Ended(6, "", 'error: kubectl: pods is forbidden by policy: User "eve" cannot list\n'),
    ),
    "a token that is refused": (
        {"create_token": ("", FORBIDDEN_TOKEN, 1)},
        ["node"],
        Ended(6, "", f"error: kubectl: {FORBIDDEN_TOKEN.removeprefix('error: ')}"),
    ),
    "nothing but the log": (
        {"create_token": ("", LOGGED, 1)},
        ["node"],
        Ended(5, "", 'error: kubectl: "Unhandled Error" err="it broke"\n'),
    ),
    "a Pod that may not be seen": (
        {"get": ("", FORBIDDEN, 1), "config": ("demo", "", 0)},
        ["explain", "web-0"],
        Ended(6, "", 'error: kubectl: pods "web-0" is forbidden: User "eve" cannot get resource "pods"\n'),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_of_kubectl_is_one_line_with_an_exit_status(kubectl: StandIn, case: str) -> None:
    says, arguments, expected = FAILURES[case]
    kubectl.says(**says)

    assert hostport_here(*arguments) == expected
    assert kubectl.still_running() == []


def workload_pods(*names: str) -> str:
    return json.dumps({"items": [{"metadata": {"name": name, "namespace": "demo"}, "spec": {}} for name in names]})


def test_the_pods_of_a_workload_are_explained_one_after_the_other(kubectl: StandIn) -> None:
    kubectl.says(
        **{
            "statefulsets/web": (json.dumps({"spec": {"selector": {"matchLabels": {"app": "web"}}}}), "", 0),
            "pods?labelSelector=app%3Dweb": (workload_pods("web-0", "web-1"), "", 0),
            "mutatingwebhookconfigurations": ("", MISSING, 1),
            "services": ('{"items": []}', "", 0),
            "/api/v1/namespaces/demo": ('{"metadata": {}}', "", 0),
        }
    )

    ended = hostport_here("explain", "sts/web", "-n", "demo")

    assert (ended.code, ended.err) == (0, "")
    assert [line for line in ended.out.splitlines() if line.startswith("Pod:")] == [
        "Pod:         demo/web-0, Unknown, on no node yet",
        "Pod:         demo/web-1, Unknown, on no node yet",
    ]


def test_a_workload_without_pods_is_told_what_was_denied_to_it(kubectl: StandIn) -> None:
    denial = 'admission webhook "pods.hostport.io" denied the request: PORT_CONFLICT: 80 is taken'
    event = {
        "metadata": {"creationTimestamp": "2026-11-24T12:00:00Z"},
        "regarding": {"kind": "ReplicaSet", "name": "web-6d4"},
        "note": f"Error creating: {denial}",
    }
    kubectl.says(
        **{
            "deployments/web": (json.dumps({"spec": {"selector": {"matchLabels": {"app": "web"}}}}), "", 0),
            "pods?labelSelector": ('{"items": []}', "", 0),
            "events": (json.dumps({"items": [event]}), "", 0),
        }
    )

    assert hostport_here("explain", "deploy/web", "-n", "demo") == Ended(
        3,
        "",
        "error: deploy/web has no Pods in namespace demo: the last Pod of ReplicaSet web-6d4 was denied: PORT_CONFLICT: 80 is "
        "taken\n",
    )


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "-A"), ("node",), ("version",), ("explain", "web-0")], ids=" ".join
)
def test_without_a_kubeconfig_the_real_kubectl_is_put_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    assert hostport_here(*arguments) == NO_CLUSTER_KNOWN


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_a_kubeconfig_without_a_current_context_is_put_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"name": "a", "context": {"cluster": "a", "user": "a"}}
    (tmp_path / "config").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "contexts": [named]}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))

    assert hostport_here("list") == NO_CLUSTER_KNOWN


async def test_what_is_asked_together_has_ended_when_the_first_error_is_raised() -> None:
    """Else a kubectl would be cut off as the command ends, and asyncio would say so on the terminal."""
    ended = []

    async def fails() -> None:
        raise KubectlError("no", "")

    async def answers() -> None:
        await asyncio.sleep(0.01)
        ended.append("answers")

    with pytest.raises(KubectlError):
        await together(fails(), answers())

    assert ended == ["answers"]
