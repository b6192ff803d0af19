"""The program as people start it: flags, health, reflection, signals. Real processes, real sockets."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from test_service import two_ports

from allocator.config import FLAGS
from allocator.journal.sqlite import SqliteJournal
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from testing.apiserver import ApiServer
from testing.observing import node
from testing.waiting import until

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """A running allocator and where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"listening for health on grpc (\S+)\"", line):
                self.health = found[1]
            found = re.search(r"listening on grpc (\S+), http (\S+)", line)
            if found:
                self.grpc, self.http = found[1], found[2]
                return
        raise AssertionError("".join(lines))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running(*flags: str) -> Iterator[Program]:
    command = [sys.executable, "-m", "allocator", "serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


def fails(*flags: str, **env: str) -> str:
    """What a start that fails says."""
    command = [sys.executable, "-m", "allocator", "serve", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, timeout=20, check=False
    )
    assert done.returncode in {1, 2}, done
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_serves_tells_its_health_and_stops_cleanly(tmp_path: Path) -> None:
    with running(f"--journal=sqlite:{tmp_path}/journal.db") as program:
        asyncio.run(_until_ready(program))
        with grpc.insecure_channel(program.grpc) as channel:
            claim = (
                pb_grpc.AllocatorServiceStub(channel).Allocate(two_ports(), wait_for_ready=True, timeout=30).allocation
            )
            health: Any = health_pb2_grpc.HealthStub(channel)
            for service in ("", "hostport.v1.AllocatorService"):
                status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
                assert status == health_pb2.HealthCheckResponse.SERVING
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            listed = next(reflection.ServerReflectionInfo(iter([question])))
            assert "hostport.v1.AllocatorService" in {s.name for s in listed.list_services_response.service}
        assert program.get("/healthz") == (200, "ok\n")
        assert program.get("/readyz") == (200, "ok\n")
        assert program.get("/readyz?verbose")[1].endswith("readyz check passed\n")
        assert (
            'hostport_allocations_total{policy="UNSPECIFIED",reason="",result="granted"} 1.0'
            in program.get("/metrics")[1]
        )
        assert program.stop() == 0

    dumped = subprocess.run(
        [sys.executable, "-m", "allocator", "journal", "dump", f"{tmp_path}/journal.db"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout  # fmt: skip
    assert claim.id in dumped


def test_it_is_not_ready_before_it_has_seen_the_cluster(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    with running("--journal=memory", f"--cluster=file:{cluster}") as program:
        status, text = program.get("/readyz?verbose")
        assert (status, "[-]cluster failed: waiting" in text) == (503, True)
        with grpc.insecure_channel(program.grpc) as channel:
            stub = pb_grpc.AllocatorServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                stub.ListNodes(pb.ListNodesRequest(), timeout=30)
            cluster.write_text("kind: Node\nmetadata: {name: n1}\n", encoding="utf-8")
            asyncio.run(_until_ready(program))
            assert [n.name for n in stub.ListNodes(pb.ListNodesRequest()).nodes] == ["n1"]


async def _until_ready(program: Program) -> None:
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(program.get, "/readyz"))[0] != 200:
            await asyncio.sleep(0.05)


def test_a_damaged_journal_is_told_at_each_start_until_somebody_acknowledges_it(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    journal.write_bytes(b"torn")
    note = "[!]the journal was damaged and set aside as"
    for _ in range(2):
        with running(f"--journal=sqlite:{journal}") as program:
            asyncio.run(_until_ready(program))
            assert note in program.get("/readyz?verbose")[1]
            assert "hostport_journal_set_aside 1.0" in program.get("/metrics")[1]
    assert [p.read_bytes() for p in tmp_path.glob("journal.db.corrupt-*")] == [b"torn"]

    assert journal_command("acknowledge", journal).returncode == 0

    with running(f"--journal=sqlite:{journal}") as program:
        asyncio.run(_until_ready(program))
        assert note not in program.get("/readyz?verbose")[1]
        assert "hostport_journal_set_aside 0.0" in program.get("/metrics")[1]


def journal_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "allocator", "journal", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=20, check=False)


def test_a_journal_that_somebody_has_locked_is_waited_for_and_told_and_nothing_of_it_is_touched(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    SqliteJournal(journal).open_now().close()
    before = journal.read_bytes()
    with closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with running(f"--journal=sqlite:{journal}") as program:
            status, text = asyncio.run(_until_told(program, "database is locked"))
            assert (status, "[-]journal failed: " in text) == (503, True)
            assert program.get("/healthz") == (200, "ok\n")
            assert "hostport_journal_trouble 1.0" in program.get("/metrics")[1]
            other.execute("ROLLBACK")
            other.close()
            asyncio.run(_until_ready(program))
            assert "hostport_journal_trouble 0.0" in program.get("/metrics")[1]
    assert journal.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if "corrupt" in each.name] == []


async def _until_told(program: Program, words: str) -> tuple[int, str]:
    async with asyncio.timeout(30):
        while words not in (told := await asyncio.to_thread(program.get, "/readyz?verbose"))[1]:
            await asyncio.sleep(0.05)
    return told


Authorities = Mapping[str, trustme.CA]


@pytest.fixture
def authorities() -> Authorities:
    return {"old": trustme.CA(), "new": trustme.CA()}


def write_tls(folder: Path, ca: trustme.CA, *, cert: trustme.LeafCert | None = None) -> list[str]:
    """Files of a server whose clients come from the same authority, and the flags that name them."""
    pair = cert or ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    pair.private_key_pem.write_to_path(folder / "key.pem")
    return [f"--tls-cert={folder}/cert.pem", f"--tls-key={folder}/key.pem", f"--tls-client-ca={folder}/ca.pem"]


async def test_callers_with_tokens_are_heard_as_soon_as_the_cluster_is_known(tmp_path: Path) -> None:
    """Before, the agents of thousands of nodes would make a start half as long again."""
    server = ApiServer()
    await server.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server.is_away = True
    server.put("nodes", node("n1"))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        f"apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{server.url}'}}}}]\n"
        "users: [{name: c, user: {}}]\ncontexts: [{name: c, context: {cluster: c, user: c}}]\n",
        encoding="utf-8",
    )
    with running(
        *(f"--listen-tokens=127.0.0.1:{port}", "--journal=memory", "--cluster=kubernetes"),
        *(f"--kubeconfig={kubeconfig}", *write_tls(tmp_path, trustme.CA())),
    ) as program:
        assert program.get("/readyz")[0] == 503
        assert not is_listened_on(port)
        server.is_away = False
        await until(lambda: is_listened_on(port), seconds=60)
        assert program.stop() == 0
    await server.stop()


def is_listened_on(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def mutual(ca: trustme.CA) -> grpc.ChannelCredentials:
    client = ca.issue_cert("shim")
    return grpc.ssl_channel_credentials(
        ca.cert_pem.bytes(), client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
    )


def answers(channel: grpc.Channel) -> bool:
    try:
        return bool(pb_grpc.AllocatorServiceStub(channel).ListNodes(pb.ListNodesRequest(), timeout=30).nodes)
    except grpc.RpcError:
        return False


def test_certificates_that_change_on_disk_are_used_for_new_connections(
    tmp_path: Path, authorities: Authorities
) -> None:
    flags = write_tls(tmp_path, authorities["old"])
    with running("--journal=memory", *flags) as program:
        with grpc.secure_channel(program.grpc, mutual(authorities["old"])) as standing:
            grpc.channel_ready_future(standing).result(5)
            write_tls(tmp_path, authorities["new"])
            with grpc.secure_channel(program.grpc, mutual(authorities["new"])) as fresh:
                assert answers(fresh)
            assert answers(standing)
        with grpc.secure_channel(program.grpc, mutual(authorities["old"])) as late:
            assert not answers(late)


def test_a_certificate_without_its_key_is_not_used(tmp_path: Path, authorities: Authorities) -> None:
    flags = write_tls(tmp_path, authorities["old"])
    with running("--journal=memory", *flags) as program:
        authorities["new"].issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        with grpc.secure_channel(program.grpc, mutual(authorities["old"])) as channel:
            assert answers(channel)


@pytest.mark.parametrize(
    ("version", "is_spoken"), [(ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)], ids=["1.2", "1.3"]
)
def test_only_tls_13_is_spoken(
    tmp_path: Path, authorities: Authorities, version: ssl.TLSVersion, *, is_spoken: bool
) -> None:
    context = ssl.create_default_context()
    authorities["old"].configure_trust(context)
    authorities["old"].issue_cert("caller").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    context.maximum_version = version
    with running("--journal=memory", *write_tls(tmp_path, authorities["old"])) as program:
        host, port = program.grpc.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            if is_spoken:
                with context.wrap_socket(connection, server_hostname=host) as secured:
                    assert secured.version() == "TLSv1.3"
            else:
                with pytest.raises(OSError, match=r"SSL|reset"):
                    context.wrap_socket(connection, server_hostname=host)


def test_the_kubelet_asks_for_health_in_plain_text_and_gets_nothing_else(
    tmp_path: Path, authorities: Authorities
) -> None:
    flags = write_tls(tmp_path, authorities["old"])
    with (
        running("--journal=memory", "--listen-health=127.0.0.1:0", *flags) as program,
        grpc.insecure_channel(program.health) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest(), timeout=30).status
        assert status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            pb_grpc.AllocatorServiceStub(channel).Allocate(two_ports(), timeout=30)


def test_the_end_of_the_certificate_that_serves_is_told(tmp_path: Path, authorities: Authorities) -> None:
    ends = [datetime(2090 + year, 1, 1, tzinfo=UTC) for year in range(2)]
    first, second = (authorities["old"].issue_cert("127.0.0.1", not_after=end) for end in ends)
    flags = write_tls(tmp_path, authorities["old"], cert=first)
    with running("--journal=memory", *flags) as program:
        for cert, end in zip((first, second), ends, strict=True):
            write_tls(tmp_path, authorities["old"], cert=cert)
            with grpc.secure_channel(program.grpc, mutual(authorities["old"])) as channel:
                assert answers(channel)
            shown = re.search(r'_expiration_timestamp_seconds{name="allocator"} (\S+)', program.get("/metrics")[1])
            assert shown is not None
            assert float(shown[1]) == end.timestamp()


def test_files_that_are_no_certificate_end_the_start(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    flags = [f"--tls-cert={tmp_path}/x.pem", f"--tls-key={tmp_path}/x.pem"]
    assert "cannot serve" in fails("--journal=memory", *flags)


def test_clients_prove_who_they_are_where_a_client_ca_is_set(tmp_path: Path) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    server, client, intruder = ca.issue_cert("127.0.0.1"), ca.issue_cert("shim"), stranger.issue_cert("shim")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    flags = [f"--tls-{what}={tmp_path / name}" for what, name in
             (("cert", "cert.pem"), ("key", "key.pem"), ("client-ca", "ca.pem"))]  # fmt: skip

    def credentials(cert: trustme.LeafCert | None) -> grpc.ChannelCredentials:
        pair = (cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes()) if cert else (None, None)
        return grpc.ssl_channel_credentials(ca.cert_pem.bytes(), *pair)

    with running("--journal=memory", *flags) as program:
        for cert, is_welcome in ((client, True), (intruder, False), (None, False)):
            with grpc.secure_channel(program.grpc, credentials(cert)) as channel:
                call = pb_grpc.AllocatorServiceStub(channel).ListNodes
                if is_welcome:
                    assert call(pb.ListNodesRequest(), timeout=30, wait_for_ready=True).nodes
                else:
                    with pytest.raises(grpc.RpcError, match=r"UNAVAILABLE|DEADLINE"):
                        call(pb.ListNodesRequest(), timeout=1)


BUILTIN = (
    *("--certificates=builtin", "--cluster=kubernetes"),
    *("--lease-namespace=x", "--pod-name=x", "--pod-uid=x"),
)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--listen=0.0.0.0:0"], "0.0.0.0:0 is not loopback: set --certificates builtin, or --tls-cert and --tls-key"),
        (["--listen=nowhere"], "'nowhere' is not HOST:PORT"),
        (["--cluster=swarm"], "neither kubernetes nor file:PATH nor none"),
        (["--cluster=flie:x"], "'flie:x' is neither kubernetes nor file:PATH nor none"),
        (["--journal=disk"], "'disk' is neither sqlite:PATH nor memory"),
        (["--reserved-ports=22-21"], "'22-21' is neither a port in 1..65535 nor a range"),
        (["--reservation-ttl=soon"], "'soon' is not a duration"),
        (["--cool-down=2h"], "'2h' is longer than an hour"),
        (["--reuse=newest"], "'newest' is none of lowest, oldest, random"),
        (["--namespace-reservations=-1"], "'-1' is not a whole number from 0 to 999999999"),
        (["--namespace-reserved-ports=many"], "'many' is not a whole number from 0 to 999999999"),
        (["--namespace-leases="], "'' is not a whole number from 0 to 999999999"),
        (["--disclose-holders=some"], "'some' is none of same-namespace, all"),
        (["--tls-cert=x"], "--tls-cert and --tls-key go together"),
        (["--listen-tokens=127.0.0.1:0"], "--listen-tokens needs --cluster kubernetes, and --tls-cert"),
        (
            ["--cluster=kubernetes", "--tls-cert=x", "--tls-key=x"],
            "--cluster kubernetes with --tls-cert needs --tls-client-ca",
        ),
        (["--certificates=builtin"], "--certificates builtin needs --lease-namespace"),
        ([*BUILTIN, "--tls-cert=x", "--tls-key=y"], "exclude each other"),
        ([*BUILTIN, "--also-trust=x"], "--also-trust needs --certificates files and --tls-client-ca"),
        (["--also-trust=x"], "--also-trust needs --certificates files and --tls-client-ca"),
        ([*BUILTIN, "--certificate-delay=1m"], "--certificate-delay is for --certificates files"),
        ([*BUILTIN, "--certificate-lifetime=59m"], "must be six times --certificate-propagation or more"),
        ([*BUILTIN, "--ca-lifetime=1h"], "must be twice --certificate-lifetime or more"),
        ([*BUILTIN, "--certificate-names=a b"], "'a b' is neither a DNS name nor an address"),
        (["--port-leases"], "--port-leases needs --cluster kubernetes"),
        (["--lease-namespace=x"], "--lease-namespace needs --cluster kubernetes, --pod-name and --pod-uid"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_flags_that_make_no_sense_are_explained(flags: list[str], words: str) -> None:
    assert words in fails(*flags)


def test_a_second_allocator_on_a_journal_does_not_start(tmp_path: Path) -> None:
    with running(f"--journal=sqlite:{tmp_path}/journal.db"):
        addresses = ("--listen=127.0.0.1:0", "--http=127.0.0.1:0")
        assert "in use by another allocator" in fails(*addresses, f"--journal=sqlite:{tmp_path}/journal.db")


def test_every_flag_is_in_the_help_and_in_the_environment() -> None:
    command = [sys.executable, "-m", "allocator", "serve", "--help"]
    text = " ".join(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split())
    for flag in FLAGS:
        assert f"--{flag.name}" in text
        assert flag.help.replace("%", "%%")[:20] in text
    assert "'elsewhere' is neither" in fails(HOSTPORT_CLUSTER="elsewhere")
