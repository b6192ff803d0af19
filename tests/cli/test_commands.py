"""What each command prints, whole; a real service answers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from clikit import Ended, hostport, hostport_here, in_loop, inhabited

from allocator.core.admission import LedgerRules
from hostport import version
from hostport.client import UnavailableError
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import manual, wording
from hostport_cli.__main__ import cli, run
from hostport_cli.commands.completion import complete
from hostport_cli.exits import words
from testing.servicekit import Running, Start

DB, LEASE, WEB = (f"{number:032x}" for number in (1, 2, 3))

LIST = """\
NAMESPACE   OWNER         STATE              NODE   PORTS                 AGE
demo        Pod/db-0      BOUND              n1     10000/TCP,10100/TCP   5m
demo        Pod/web-*     RESERVED           n1     7000/TCP              5m
edge        Pod/ingress   BOUND (external)   n1     53/UDP                5m
media       Relay/r1      LEASED             n2     21000/UDP             5m
"""


@pytest.fixture
async def demo(start: Start, monkeypatch: pytest.MonkeyPatch) -> Running:
    service = await inhabited(await start(rules=LedgerRules()))
    monkeypatch.setattr(wording, "now", lambda: 1300.0)
    return service


LIST_WIDE = f"""\
OWNER      STATE    NODE   PORTS       AGE   EXPIRES   NAMES   NETWORK   WARNINGS   DESCRIPTION       ALLOCATION
Relay/r1   LEASED   n2     21000/UDP   5m    55m       rtp     -         -          of the EU lobby   {LEASE}
"""
LIST_WIDE_PODS = f"""\
OWNER      STATE   NODE   PORTS                 AGE   EXPIRES   NAMES             NETWORK   WARNINGS                DESCRIPTION   ALLOCATION
Pod/db-0   BOUND   n1     10000/TCP,10100/TCP   5m    never     primary,metrics   Pod       PORT_MOVED,OLD_NUMBER   -             {DB}
"""
NODES = """\
NODE   ALLOCATIONS   PORTS   KNOWN
n1     3             4       yes
n2     1             1       yes
n3     0             0       yes
"""
PORTS = """\
NUMBER   PROTOCOL   ADDRESS   HOLDER             KNOWN BY   STATE      SINCE   LISTENING
7000     TCP        *         Pod/demo/web-*     pod        RESERVED   5m      -
10000    TCP        *         Pod/demo/db-0      pod        BOUND      5m      -
10100    TCP        *         Pod/demo/db-0      pod        BOUND      5m      -
53       UDP        *         Pod/edge/ingress   pod        BOUND      5m      -
"""
WHO = f"""\
HOLDER           STATE    SINCE   EXPIRES   ALLOCATION
Relay/media/r1   LEASED   5m      55m       {LEASE}
"""
DRY_RUN = """\
ALLOCATION   NODE   PORTS                     EXPIRES
(dry run)    n3     media=7000/UDP,9000/TCP   55m
"""
RENEWED = f"""\
ALLOCATION                         NODE   PORTS           EXPIRES
{LEASE}   n2     rtp=21000/UDP   115m
"""
TODAY = version.VERSION
VERSION = f"""\
COMPONENT   {"VERSION":{len(TODAY)}}   WHERE
client      {TODAY}   -
allocator   {TODAY}   cluster none, up 5m
"""
ASK = ["lease", "--owner", "Relay/r2", "--node", "n3"]

CASES: dict[str, tuple[list[str], str]] = {
    "list": (["list"], LIST),
    "list -o wide": (["list", "-o", "wide", "-n", "media"], LIST_WIDE),
    "list -o wide, Pods": (["list", "-o", "wide", "-n", "demo", "--owner", "db-0"], LIST_WIDE_PODS),
    "list --state": (["list", "--state", "bound", "-o", "name", "-n", "demo"], f"{DB}\n"),
    "node": (["node"], NODES),
    "node NODE": (["node", "n1"], PORTS),
    "who": (["who", "n2", "21000/udp"], WHO),
    "lease --dry-run": ([*ASK, "--port", "media/UDP", "--port", ":9000", "--dry-run"], DRY_RUN),
    "lease": ([*ASK, "--ttl", "10m", "-o", "name"], f"{4:032x}\n"),
    "renew": (["renew", LEASE, "--ttl", "2h"], RENEWED),
    "release": (["release", LEASE], f"{LEASE}\n"),
    "release --ignore-not-found": (["release", "no-such", LEASE, "--ignore-not-found"], f"{LEASE}\n"),
    "version": (["version"], VERSION),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_command_prints_its_answer_and_nothing_else(demo: Running, case: str) -> None:
    arguments, expected = CASES[case]

    assert await hostport(demo, *arguments) == Ended(0, expected)


REMARKS: dict[str, tuple[list[str], str]] = {
    "nothing held": (["list", "-n", "empty"], "Nobody holds host ports in namespace empty.\n"),
    "a free port": (["who", "n2", "80"], "80/TCP on n2 is free.\n"),
    "a free node": (["node", "n3"], "No host port is held on n3.\n"),
}


@pytest.mark.parametrize("case", REMARKS)
async def test_an_empty_answer_is_no_error_and_says_so_beside_stdout(demo: Running, case: str) -> None:
    arguments, remark = REMARKS[case]

    assert await hostport(demo, *arguments) == Ended(0, "", remark)


async def test_json_and_yaml_are_the_message_of_the_api(demo: Running) -> None:
    told = json.loads((await hostport(demo, "who", "n2", "21000/UDP", "-o", "json")).out)

    assert told == yaml.safe_load((await hostport(demo, "who", "n2", "21000/UDP", "-o", "yaml")).out)
    allocation = told["holders"][0]["allocation"]
    assert (allocation["id"], allocation["owner"]["name"], allocation["expireTime"]) == (
        LEASE, "r1", "1970-01-01T01:16:40Z",
    )  # fmt: skip


async def test_every_page_is_asked_for(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostport_cli.commands.listing.PAGE", 2)
    service = await inhabited(await start(rules=LedgerRules()))

    assert len((await hostport(service, "list", "-o", "name")).out.splitlines()) == 4


ERRORS: dict[str, tuple[list[str], int, str]] = {
    "no such node": (["node", "nx"], 3, "NODE_NOT_FOUND: no node nx. "),
    "no such lease": (["renew", "nope"], 3, "ALLOCATION_NOT_FOUND: no allocation nope: "),
    "no such lease to release": (["release", "no-such"], 3, "nothing was released: there is no allocation no-such. "),
    "a Pod's claim": (["renew", DB], 4, "NOT_A_LEASE: "),
    "a range upside down": (["lease", "--owner", "R/r", "--range", "9-8"], 2, "range (9, 8) ends before it begins"),
    "no owner": (["lease"], 2, "Missing option '--owner' (see hostport lease --help)\n"),
    "no Kind/name": (["lease", "--owner", "r"], 2, "owner 'r' is not Kind/name, such as Relay/r1 (see hostport lease --help)\n"),
    "no port": (["who", "n1", "http"], 2, "Invalid value for 'PORT': 'http' is not a port such as 8080 or 8080/UDP (see hostport who --help)\n"),
    "a port too large": (["who", "n1", "65536"], 2, "Invalid value for 'PORT': '65536' is not a port"),
    "-n and -A": (["list", "-A", "-n", "x"], 2, "-n and -A exclude each other (see hostport list --help)\n"),
    "half a pair": (["list", "--cert", __file__], 2, "--cert and --key go together (see hostport list --help)\n"),
    "no such file": (["list", "--ca", "/no/such.pem"], 2, "Invalid value for '--ca': File '/no/such.pem' does not exist"),
    "no manifest": (["render", "-f", "/no/such.yaml"], 2, "[Errno 2] No such file or directory: '/no/such.yaml'\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
async def test_an_error_is_one_line_that_says_what_to_do(demo: Running, case: str) -> None:
    arguments, code, beginning = ERRORS[case]

    ended = await hostport(demo, *arguments)

    assert (ended.code, ended.out, ended.err[: len(beginning) + 7]) == (code, "", f"error: {beginning}")
    assert ended.err.count("\n") == 1


async def test_what_exists_is_released_and_what_does_not_is_named(demo: Running) -> None:
    ended = await hostport(demo, "release", "one", LEASE, "other")

    assert ended == Ended(
        3, f"{LEASE}\n", "error: there are no allocations one, other. `hostport list` shows those that there are\n"
    )


BEFORE: dict[str, list[str]] = {
    "the allocator": ["--server={}", "list", "-A", "-o", "name"],
    "the allocator, and another one after the verb": [
        "--server=127.0.0.1:1",
        "list",
        "--server={}",
        "-A",
        "-o",
        "name",
    ],
    "the namespace": ["-n", "demo", "--server={}", "list", "-o", "name"],
    "all namespaces": ["-A", "--server={}", "list", "-o", "name"],
}


@pytest.mark.parametrize("case", BEFORE)
async def test_whom_to_ask_may_stand_before_the_verb(demo: Running, case: str) -> None:
    arguments = [each.format(demo.address) for each in BEFORE[case]]

    ended = await in_loop(*arguments)

    assert (ended.code, ended.err, DB in ended.out.split()) == (0, "", True)


@pytest.mark.parametrize(
    "arguments", [["explain", "web-0"], ["lease", "--owner=Relay/r1"], ["check"]], ids=lambda each: each[0]
)
def test_all_namespaces_before_a_verb_that_is_about_one_are_refused(arguments: list[str]) -> None:
    ended = hostport_here("-A", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: -A makes no sense for `{arguments[0]}`, which is about one namespace: ")


def test_a_command_that_asks_nobody_takes_what_stands_before_it_and_needs_it_not() -> None:
    assert hostport_here("--server=x:1", "completion", "bash").code == 0


def test_an_allocator_that_does_not_answer_is_told_from_one_that_refuses() -> None:
    ended = hostport_here("list", "--server", "127.0.0.1:1", "--timeout", "200ms")

    assert (ended.code, ended.out) == (5, "")
    assert ended.err.startswith("error: no answer from the allocator: ipv4:127.0.0.1:1: ")
    assert ended.err.endswith("(is it running? `hostport check` tells what is broken)\n")


TLS = "does its TLS fit --ca, --cert and --server-name?"
SILENCE = {
    "nobody is there": ("Connection refused", "is it running?"),
    "another authority": ("Tls handshake failed (TSI_PROTOCOL_FAILURE): CERTIFICATE_VERIFY_FAILED", TLS),
    "it speaks plain text": ("Tls handshake failed (TSI_PROTOCOL_FAILURE): WRONG_VERSION_NUMBER", TLS),
    "another name": ("Custom verification check failed with error: Hostname Verification Check failed.", TLS),
    "it speaks TLS, or wants a certificate": ("Socket closed", f"is it its gRPC port, and {TLS}"),
    "it speaks TLS, and resets": ("recvmsg:Connection reset by peer (104)", f"is it its gRPC port, and {TLS}"),
    "a port for HTTP/1.1": ("Failed parsing HTTP/2 (Expected SETTINGS frame)", f"is it its gRPC port, and {TLS}"),
}


@pytest.mark.parametrize("case", SILENCE)
def test_who_gets_no_answer_is_told_where_to_look(case: str) -> None:
    """Whether a program runs is no question where something at its address turned us away."""
    said, question = SILENCE[case]

    assert words(UnavailableError(said)) == f"{said} ({question} `hostport check` tells what is broken)"


def test_without_kubectl_it_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    assert hostport_here("node") == Ended(
        5,
        "",
        "error: kubectl cannot be run (No such file or directory): install it, or name the allocator by --server\n",
    )


async def test_the_shims_that_called_are_told_with_their_version_and_a_warning_when_it_is_old(demo: Running) -> None:
    class Call:
        def peer(self) -> str:
            return "ipv4:10.0.0.7:1234"

        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return (("user-agent", "hostport-shim/0.3.0 grpc-python-asyncio/1.85.1"),)

    demo.status.callers.note(Call())

    ended = await hostport(demo, "version")

    assert ended.out.splitlines()[-1] == f"shim        {'0.3.0':{len(TODAY)}}   10.0.0.7, called 5m ago"
    assert ended.err == f"warning: the shim is 0.3.0, the allocator {TODAY}: only neighbouring minor versions fit\n"


async def test_a_command_runs_on_leased_ports_which_are_free_when_it_ends(demo: Running) -> None:
    shell = 'echo "$HOSTPORT_PORT $HOSTPORT_MEDIA_IN $HOSTPORT_NODE" > "$0"; exit 7'
    target = "/dev/null"

    ended = await hostport(
        demo, "lease", "--owner", "Test/me", "--port", "media-in/UDP", "--node", "n3", "--", "sh", "-c", shell, target
    )

    assert ended == Ended(7)
    assert (await demo.stub.GetNode(pb.GetNodeRequest(name="n3"))).node.held_port_count == 0


@pytest.mark.parametrize(
    ("ports", "variable"),
    [
        (["a", "a"], "HOSTPORT_A"),
        (["media", "port"], "HOSTPORT_PORT"),
        (["node"], "HOSTPORT_NODE"),
        (["a", "a-min"], "HOSTPORT_A_MIN"),
    ],
    ids=["one name twice", "the first port", "the node", "the lowest of a block"],
)
def test_a_command_is_not_told_two_things_by_one_variable(ports: list[str], variable: str) -> None:
    named = [f"--port={each}" for each in ports]

    ended = hostport_here("lease", "--owner=Test/me", "--count=2", *named, "--server=127.0.0.1:1", "--", "true")

    told = f"error: {variable} would have two values: name the ports otherwise (see hostport lease --help)\n"
    assert ended == Ended(2, "", told)


async def test_a_lease_of_a_block_shows_its_first_and_last_number(demo: Running) -> None:
    block = ["--port", "rtp/UDP", "--count", "100", "--alignment", "2", "--range", "20000-20999", "--dry-run"]

    ended = await hostport(demo, *ASK, *block)

    assert ended.out.splitlines()[-1] == "(dry run)    n3     rtp=20000-20099/UDP   55m"


def test_every_command_has_help_and_a_page_that_says_the_same() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")

    assert page == manual.render()
    for name, command in cli.commands.items():
        assert command.help, name
        assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []
        assert hostport_here(name, "--help").code == 0


def test_examples_in_a_help_stand_on_lines_of_their_own() -> None:
    text = manual.render()

    assert "\\b" not in text
    assert "\n  hostport explain -l app=web\n" in text
    assert "\n  zsh:   source <(hostport completion zsh)\n" in text


def test_the_plugin_speaks_of_itself_as_kubectl_does() -> None:
    with CliRunner().isolation(color=False) as (out, _, _):
        assert run(["who", "--help"], "kubectl hostport") == 0
        assert out.getvalue().decode().startswith("Usage: kubectl hostport who [OPTIONS] NODE PORT\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["re"], ["render\tShow the Pods of manifests", "renew\t", "release\t"]),
        (["list", "--state", "b"], ["bound"]),
        (["list", "--own"], ["--owner\tOnly what an owner of this name holds."]),
    ],
    ids=["a command", "a value", "an option"],
)
def test_kubectl_is_told_what_may_follow(words: list[str], expected: list[str]) -> None:
    *told, directive = complete(cli, words)

    assert directive == ":4"
    assert len(told) == len(expected)
    assert all(line.startswith(beginning) for line, beginning in zip(told, expected, strict=True))


SCRIPT = "source <(hostport completion bash); COMP_WORDS=(hostport re) COMP_CWORD=1; _hostport_completion hostport"


def test_bash_completes_the_program_that_is_installed() -> None:
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-c", f'{SCRIPT}; echo "${{COMPREPLY[@]}}"']

    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)

    assert (done.stdout, done.stderr) == ("render renew release\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_completion_code(shell: str) -> None:
    ended = hostport_here("completion", shell)

    assert (ended.code, ended.err) == (0, "")
    assert "_HOSTPORT_COMPLETE" in ended.out


def test_kubectl_finds_the_plugin_and_its_completion() -> None:
    folder = Path(sys.executable).parent
    helped = subprocess.run([folder / "kubectl-hostport", "who", "-h"], capture_output=True, text=True, check=True)
    completed = subprocess.run([folder / "kubectl_complete-hostport", "wa"], capture_output=True, text=True, check=True)

    assert helped.stdout.startswith("Usage: kubectl hostport who ")
    assert re.fullmatch(r"watch\t.*\n:4\n", completed.stdout)


STEERING = "\x1b[2Jgone\nPod/demo/you \u202e"
SHOWN = r"\x1b[2Jgone\nPod/demo/you \u202e"


@pytest.mark.parametrize(
    "arguments",
    [("list", "-o", "wide"), ("node", "n2", "-o", "wide"), ("who", "n2", "7001", "-o", "wide")],
    ids=" ".join,
)
async def test_what_others_wrote_does_not_steer_the_terminal(demo: Running, arguments: tuple[str, ...]) -> None:
    """Who leases names the owner: colours, an emptied screen or a line that looks like another row are shown as text."""
    owner = pb.Owner(kind="Relay", name=STEERING, description=STEERING)
    where = pb.NodeConstraints(node_name="n2")
    request = pb.AllocateRequest(owner=owner, policy=pb.POLICY_DYNAMIC, ports=[pb.PortRequest()], constraints=where)
    await demo.stub.Allocate(request)

    ended = await hostport(demo, *arguments)

    assert ended.code == 0
    assert [line.count(SHOWN) for line in ended.out.splitlines() if "gone" in line] == [2]
    assert not any(sign in ended.out for sign in "\x1b\u202e")


async def test_an_error_does_not_steer_the_terminal_either(demo: Running) -> None:
    ended = await hostport(demo, "node", STEERING)

    assert (ended.code, "\x1b" in ended.err) == (3, False)
    assert r"no node \x1b[2Jgone Pod/demo/you \u202e. " in ended.err


@pytest.mark.parametrize("arguments", [("node", "\udcff"), ("lease", "--owner", "Relay/\udcff")], ids=" ".join)
def test_an_argument_that_is_no_text_is_told(arguments: tuple[str, ...]) -> None:
    ended = hostport_here(*arguments, "--server=127.0.0.1:1")

    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"error: the argument '\S*\\udcff' is not UTF-8\n", ended.err)


# -- as a process of its own


def hostport_program(*arguments: str, stdin: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hostport_cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def last_words(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ended, and what it said on stderr."""
    with process:
        assert process.stderr is not None
        return process.wait(60), process.stderr.read()


async def test_who_reads_no_further_ends_it_without_a_word(demo: Running) -> None:
    process = hostport_program("watch", f"--server={demo.address}", "-o", "json")
    assert process.stdout is not None
    first = json.loads(await asyncio.to_thread(process.stdout.readline))
    assert first["type"] == "TYPE_SNAPSHOT"
    process.stdout.close()

    await demo.stub.Release(pb.ReleaseRequest(id=LEASE))

    assert await asyncio.to_thread(last_words, process) == (141, "")


STDOUTS = {
    "is full": (">/dev/full", 1, "error: cannot go on: No space left on device\n"),
    "is closed": (">&-", 0, ""),
}


@pytest.mark.parametrize("case", STDOUTS)
def test_a_stdout_that_takes_nothing_leaves_no_traceback(case: str) -> None:
    redirection, code, err = STDOUTS[case]
    command = f"exec {sys.executable} -m hostport_cli version --client {redirection}"

    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (code, "", err)


def test_signs_that_the_terminal_does_not_have_are_told_by_their_numbers() -> None:
    environ = os.environ | {"PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "hostport_cli", "check", "--server=127.0.0.1:1", "--timeout=100ms"]

    done = subprocess.run(command, check=False, capture_output=True, env=environ, timeout=60)

    assert (done.returncode, done.stderr) == (1, b"")
    assert rb"\u2717 the allocator answers" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_an_interruption_ends_it_without_a_word(demo: Running, number: signal.Signals) -> None:
    process = hostport_program("watch", f"--server={demo.address}")
    assert process.stdout is not None
    await asyncio.to_thread(process.stdout.readline)

    process.send_signal(number)

    assert await asyncio.to_thread(last_words, process) == (130, "")


async def test_what_is_watched_goes_on_when_the_allocator_is_asked_to_give_something_up(demo: Running) -> None:
    process = hostport_program("watch", f"--server={demo.address}", "-n", "media")
    assert process.stdout is not None
    first = await asyncio.to_thread(process.stdout.readline)
    await demo.stub.Release(pb.ReleaseRequest(id=LEASE))
    second = await asyncio.to_thread(process.stdout.readline)
    process.terminate()
    await asyncio.to_thread(last_words, process)

    assert [line[10:].strip() for line in (first, second)] == [
        "has    Relay/media/r1  21000/UDP on n2  LEASED",
        "frees  Relay/media/r1  21000/UDP on n2  RELEASED",
    ]


def test_a_wait_needs_no_value(tmp_path: Path) -> None:
    (empty := tmp_path / "config").touch()
    begin = time.monotonic()
    ended = hostport_here("check", f"--kubeconfig={empty}", "--server=127.0.0.1:1", "--timeout=100ms", "--wait", "1s")

    assert (ended.code, time.monotonic() - begin < 60) == (1, True)
    (wait,) = [param for param in cli.commands["check"].params if param.name == "wait"]
    assert isinstance(wait, click.Option)
    assert wait.flag_value == "5m"


def test_a_time_that_nobody_can_wait_is_told_by_its_option() -> None:
    ended = hostport_here("list", "--server=127.0.0.1:1", "--timeout=0s")

    assert (ended.code, ended.err) == (
        2,
        "error: --timeout must be more than 0, such as 5s (see hostport list --help)\n",
    )


@pytest.mark.parametrize("option", ["ca", "cert", "key", "token-file", "kubeconfig"])
def test_a_file_that_does_not_exist_is_named(option: str) -> None:
    ended = hostport_here("list", f"--{option}=/no/such")

    assert ended.code == 2
    assert f"'--{option}': File '/no/such' does not exist" in ended.err


@pytest.mark.parametrize(
    ("variable", "value"), [("HOSTPORT_TIMEOUT", "soon"), ("HOSTPORT_CA", "/no/such")], ids=["a time", "a file"]
)
def test_a_wrong_variable_of_the_environment_is_told_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    for arguments in (["list"], []):
        ended = hostport_here(*arguments)

        assert ended.code == 2
        assert ended.err.startswith(f"error: Invalid value for {variable}: ")
