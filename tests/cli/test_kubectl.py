"""The way through kubectl: what is asked of it, how its failures read, and that nothing is left running.

A stand-in takes kubectl's place, since a port cannot be forwarded without a kubelet; its words are kubectl's own. The
real one is used against a real API server in tests/e2e.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from access.reviewing import ReviewServer, account
from access.secured import Secured
from clikit import Ended, hostport_here, in_loop

from allocator.access.rights import EVERYWHERE

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


async def test_who_may_not_is_told_which_right_is_missing(secured: Secured, kubectl: StandIn, tmp_path: Path) -> None:
    secured.server.add("no-rights", account("media", "relay"))
    (tmp_path / "token").write_text("no-rights", encoding="utf-8")
    secured.authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    where = (f"--server=localhost:{secured.token_port}", f"--ca={tmp_path}/ca.crt", f"--token-file={tmp_path}/token")

    ended = await in_loop("node", *where)

    assert (ended.code, ended.out) == (6, "")
    assert ended.err.startswith("error: PERMISSION_DENIED: ")
    assert "portleases.hostport.io" in ended.err


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
