"""`make run`: allocator and shim on this machine, and the Pods of a manifest sent through the webhook.

The state stays in .local/: a second run finds it. Each Pod's review has a uid that follows from its content, so that
the same Pod gets its first answer again, as a repeated webhook call would.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import trustme
import yaml

from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc
from shim.manifests import admission_review, pods_of

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".local"
MANIFEST = ROOT / "examples" / "distributed-db.yaml"
START_SECONDS = 20.0

Row = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return LOCAL / f"{self.name}.log"


class RunError(Exception):
    """Something that people have to know; no trace."""


def main(manifest: Path = MANIFEST) -> int:
    LOCAL.mkdir(exist_ok=True)
    grpc_port, shim_port = free_port(50051), free_port(8443)
    allocator_http, shim_http = free_port(8081), free_port(8082)
    make_certificate()
    programs: list[Program] = []
    try:
        programs = [
            start("allocator", grpc_port, allocator_http, "--journal=sqlite:.local/journal.db", "--cluster=none"),
            start("shim", shim_port, shim_http, "--tls-cert=.local/tls.crt", "--tls-key=.local/tls.key",
                  f"--allocator=127.0.0.1:{grpc_port}"),
        ]  # fmt: skip
        for program, port in zip(programs, (allocator_http, shim_http), strict=True):
            wait_ready(program, port)
        tell_survivors(grpc_port)
        print_table(admit(manifest, shim_port))
        print(NEXT.format(grpc=grpc_port, shim=shim_port, allocator_http=allocator_http, shim_http=shim_http))
        print("Serving until Ctrl-C.", flush=True)
        return wait(programs)
    except RunError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    finally:
        stop(programs)


NEXT = """
What to try next:

  # another run of this command: the same allocations, from the journal
  # what the webhook answers to a review that a real API server sent
  curl -s --cacert .local/ca.crt -H 'Content-Type: application/json' --data-binary @examples/admission-review.json \\
    'https://127.0.0.1:{shim}/mutate?timeout=5s'
  # who holds which port, and the same as a page
  .venv/bin/hostport --server 127.0.0.1:{grpc} list -A
  http://127.0.0.1:{allocator_http}/
  # any manifest as the webhook would mutate it; nothing is reserved
  .venv/bin/python -m shim render --allocator 127.0.0.1:{grpc} -f examples/distributed-db.yaml
  # the gRPC API, by reflection
  grpcurl -plaintext 127.0.0.1:{grpc} hostport.v1.AllocatorService/ListAllocations
  grpcurl -plaintext -d '{{"name": "localhost"}}' 127.0.0.1:{grpc} hostport.v1.AllocatorService/GetNode
  grpcurl -plaintext -d '{{"owner": {{"kind": "Relay", "name": "r1"}}, "policy": "POLICY_DYNAMIC", "ports": [{{}}]}}' \\
    127.0.0.1:{grpc} hostport.v1.AllocatorService/Allocate
  # health and metrics
  curl -s 'http://127.0.0.1:{allocator_http}/readyz?verbose' 'http://127.0.0.1:{shim_http}/readyz?verbose'
  # what is in the journal
  .venv/bin/python -m allocator journal dump .local/journal.db
"""


# -- the programs


def free_port(wanted: int) -> int:
    """The usual port, or a free one where something else has it."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RunError("no free port on 127.0.0.1")


def make_certificate() -> None:
    """A CA and a certificate for 127.0.0.1, new at every run; good for this machine alone."""
    ca = trustme.CA()
    leaf = ca.issue_cert("127.0.0.1", "localhost")
    ca.cert_pem.write_to_path(LOCAL / "ca.crt")
    leaf.cert_chain_pems[0].write_to_path(LOCAL / "tls.crt")
    key = LOCAL / "tls.key"
    key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(key)


def start(package: str, port: int, http: int, *flags: str) -> Program:
    command = [sys.executable, "-m", package, "serve", f"--listen=127.0.0.1:{port}", f"--http=127.0.0.1:{http}", *flags]
    # The flags say it all: what the shell's environment says of another installation must not matter here.
    env = {name: value for name, value in os.environ.items() if not name.startswith("HOSTPORT_")}
    with (LOCAL / f"{package}.log").open("wb") as log:
        return Program(package, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=env))


def wait_ready(program: Program, http: int) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if program.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    log = program.log.read_text(encoding="utf-8", errors="replace")
    raise RunError(f"the {program.name} did not start:\n{log}")


def wait(programs: Sequence[Program]) -> int:
    """Until Ctrl-C or SIGTERM (0), or until a program ends by itself (1)."""
    asked_to_stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _: asked_to_stop.append(caught))
    while not asked_to_stop:
        for program in programs:
            if program.process.poll() is not None:
                status = program.process.returncode
                raise RunError(f"the {program.name} ended with status {status}: see {program.log}")
        time.sleep(0.2)
    return 0


def stop(programs: Sequence[Program]) -> None:
    for program in reversed(programs):
        program.process.terminate()
    for program in programs:
        program.process.wait(30)


# -- what they are asked


def tell_survivors(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        listed = pb_grpc.AllocatorServiceStub(channel).ListAllocations(pb.ListAllocationsRequest(page_size=1000))
    if listed.allocations:
        print(f"The journal .local/journal.db remembers {len(listed.allocations)} allocations of earlier runs.\n")


def admit(manifest: Path, port: int) -> Iterator[Row]:
    """A row for each port of the manifest's Pods, as the webhook patched them."""
    trust = ssl.create_default_context(cafile=str(LOCAL / "ca.crt"))
    for document in yaml.safe_load_all(manifest.read_text(encoding="utf-8")):
        for pod in pods_of(document):
            uid = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(pod, sort_keys=True))
            answer = post(admission_review(pod, str(uid), dry_run=False), port, trust)
            yield from rows(pod, answer)


def post(review: Any, port: int, trust: ssl.SSLContext) -> dict[str, Any]:
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}/mutate?timeout=5s",
        json.dumps(review).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as response:
            return dict(json.load(response)["response"])
    except urllib.error.HTTPError as error:
        raise RunError(f"the webhook answered {error.code}: {error.read().decode()}") from error


def rows(pod: dict[str, Any], answer: dict[str, Any]) -> Iterator[Row]:
    name = pod["metadata"].get("name") or pod["metadata"]["generateName"] + "*"
    if not answer["allowed"]:
        raise RunError(f"Pod {name} was denied: {answer['status']['message']}")
    for warning in answer.get("warnings", ()):
        print(f"warning for Pod {name}: {warning}")
    patch = json.loads(base64.b64decode(answer.get("patch", base64.b64encode(b"[]"))))
    for op in patch:
        if op["path"] == "/metadata/annotations/hostport.io~1allocations":
            for port in json.loads(op["value"]):
                what = port["name"] or port["protocol"]
                yield name, port["container"], what, f"{port['containerPort']} → {port['hostPort']}"


def print_table(found: Iterator[Row]) -> None:
    table = [("POD", "CONTAINER", "PORT", "containerPort → hostPort"), *found]
    width = shutil.get_terminal_size().columns
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    for row in table:
        print("   ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()[:width])


if __name__ == "__main__":
    sys.exit(main(*(Path(argument) for argument in sys.argv[1:2])))
