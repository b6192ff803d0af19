"""A thousand connections that do nothing: the others are served, and memory stays bounded. Real programs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import ssl
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from hostport.process import MOST_FILES, raise_file_limit
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

ROOT = Path(__file__).resolve().parents[1]
LISTENING = rb"listening on (?:grpc |https://)127.0.0.1:([0-9]+)(?:, | \()http 127.0.0.1:([0-9]+)"
CROWD = 1000
FILES = 150
MOST_MEBIBYTES = 200  # that the crowd may cost
PATIENCE = 5.0  # seconds for an answer meanwhile: half of what a handshake may take

Ask = Callable[[], Awaitable[object]]


class Program:
    """A program that serves with TLS, and whose clients are of one authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.client = self.authority.issue_cert("client.test", common_name="hostport-shim")
        served = self.authority.issue_cert("127.0.0.1")
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        served.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        served.private_key_pem.write_to_path(folder / "key.pem")
        self.folder = folder

    @asynccontextmanager
    async def running(self, name: str, *flags: str, files: int | None = None) -> AsyncIterator[None]:
        """`files`: how many it may have open."""
        common = ("serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0")
        tls = (f"--tls-cert={self.folder}/cert.pem", f"--tls-key={self.folder}/key.pem")
        limit = f'ulimit -n {files}; exec "$@"' if files else 'exec "$@"'
        command = ("sh", "-c", limit, "sh", sys.executable, "-m", name, *common, *tls, *flags)
        process = await asyncio.create_subprocess_exec(*command, stderr=PIPE, cwd=ROOT)
        assert process.stderr is not None
        async for line in process.stderr:
            if found := re.search(LISTENING, line):
                break
        assert found
        self.port, self.side_port, self.pid = int(found[1]), int(found[2]), process.pid
        self.said = bytearray()
        reading = asyncio.create_task(self._listen(process.stderr))
        try:
            yield
        finally:
            process.kill()
            await process.wait()
            await reading

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(1 << 16):
            self.said += chunk

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def mebibytes(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 2**20

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        self.client.configure_cert(context)
        context.set_alpn_protocols(["h2"])
        return context

    async def crowd(self) -> list[asyncio.StreamWriter]:
        """A quarter of them have finished their handshake, the others have not begun it."""
        context = self.context()
        return [
            (await asyncio.open_connection("127.0.0.1", self.port, ssl=None if number % 4 else context))[1]
            for number in range(CROWD)
        ]


async def withstands(program: Program, ask: Ask) -> None:
    await ask()
    before = program.mebibytes()
    crowd = await program.crowd()
    began = time.monotonic()
    await ask()

    assert time.monotonic() - began < PATIENCE
    assert program.mebibytes() - before < MOST_MEBIBYTES
    for writer in crowd:
        writer.transport.abort()
    await ask()


async def test_the_allocator_withstands_a_thousand_idle_connections(tmp_path: Path) -> None:
    program = Program(tmp_path)
    async with program.running("allocator", "--journal=memory", f"--tls-client-ca={tmp_path}/ca.pem"):
        pair = (program.client.private_key_pem.bytes(), program.client.cert_chain_pems[0].bytes())
        credentials = grpc.ssl_channel_credentials(program.authority.cert_pem.bytes(), *pair)
        options = [("grpc.use_local_subchannel_pool", 1)]

        async def ask() -> object:
            async with grpc.aio.secure_channel(f"127.0.0.1:{program.port}", credentials, options) as channel:
                return await pb_grpc.AllocatorServiceStub(channel).ListNodes(
                    pb.ListNodesRequest(), timeout=30, wait_for_ready=True
                )

        await withstands(program, ask)


async def test_the_webhook_withstands_a_thousand_idle_connections(tmp_path: Path) -> None:
    program = Program(tmp_path)
    review = json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "operation": "CREATE",
                "object": {"metadata": {"name": "plain"}, "spec": {"containers": []}},
            },
        }
    ).encode()
    head = f"POST /mutate HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(review)}\r\n\r\n".encode()
    async with program.running("shim"):

        async def ask() -> object:
            context = program.context()
            context.set_alpn_protocols(["http/1.1"])
            reader, writer = await asyncio.open_connection("127.0.0.1", program.port, ssl=context)
            writer.write(head + review)
            answer = await reader.read()
            writer.close()
            assert b'"allowed":true' in answer
            return answer

        await withstands(program, ask)


WATCHED_SECONDS = 2.0


@pytest.mark.parametrize(
    ("name", "port", "says"),
    [
        pytest.param("shim", "port", b"connections wait, and cannot be accepted", id="the webhook"),
        pytest.param("shim", "side_port", b"", id="the shim's http, whose own bound is lower"),
        pytest.param("allocator", "side_port", b"connections wait, and cannot be accepted", id="the allocator's http"),
        pytest.param(
            "allocator", "port", b"File descriptor limit reached. Retrying", id="gRPC, which pauses by itself"
        ),
    ],
)
async def test_at_the_file_limit_a_program_pauses_and_says_so_once_a_second(
    tmp_path: Path, name: str, port: str, says: bytes
) -> None:
    program = Program(tmp_path)
    flags = ("--journal=memory", f"--tls-client-ca={tmp_path}/ca.pem") if name == "allocator" else ()
    async with program.running(name, *flags, files=FILES):
        crowd = [(await asyncio.open_connection("127.0.0.1", getattr(program, port)))[1] for _ in range(3 * FILES)]
        before, began = program.cpu_seconds(), time.monotonic()
        await asyncio.sleep(WATCHED_SECONDS)  # what a loop that spins would use up
        took = time.monotonic() - began
        spent = program.cpu_seconds() - before
        lines = [line for line in bytes(program.said).splitlines() if b'"level":"info"' not in line]  # of its start
        is_served = (port == "port" and name == "allocator") or await answers(program.side_port)
        for each in crowd:
            each.transport.abort()

        assert spent < took / 4
        assert len(lines) <= took + 3
        assert all(says in line for line in lines if b"connections" in line or b"descriptor" in line)
        assert bool(lines) == bool(says)
        assert is_served, "silent connections go for whoever waits; gRPC gives each handshake ten seconds"


async def test_at_the_file_limit_whoever_asked_once_makes_room_as_well(tmp_path: Path) -> None:
    """They may be silent for two minutes, and as long whoever came was hung up on."""
    program = Program(tmp_path)
    async with program.running("allocator", "--journal=memory", f"--tls-client-ca={tmp_path}/ca.pem", files=FILES):
        writers = []
        for _ in range(FILES):
            reader, writer = await asyncio.open_connection("127.0.0.1", program.side_port)
            writers.append(writer)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(30):
                assert await reader.readuntil(b"ok\n")
        for writer in writers:
            writer.transport.abort()


async def answers(port: int) -> bool:
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
    writer.close()
    return answer.endswith(b"ok\n")


@pytest.mark.parametrize(
    ("soft", "hard", "taken"),
    [
        (1024, 524_288, MOST_FILES),
        (1024, 4096, 4096),
        (1024, resource.RLIM_INFINITY, MOST_FILES),
        (MOST_FILES + 1, MOST_FILES + 2, None),
    ],
    ids=["a common container", "a strict one", "no bound", "enough"],
)
def test_a_program_takes_the_files_that_it_may_have(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, taken: int | None
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))

    raise_file_limit()

    assert set_to == ([] if taken is None else [(taken, hard)])
