"""A node with many sockets, for `bench.agent`: run in a network namespace of its own, prints one JSON object.

It opens sockets that take what is sent to them and connections, runs an allocator and an agent on loopback, and tells
what the agent takes. Nothing else happens meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import trustme

from bench.processes import cpu_ns, free_address, server
from testing.loopback import bring_loopback_up

FIRST = 10_000
SETTLED_SECONDS = 15.0


def opened(kind: socket.SocketKind, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, kind)
    one.bind(("127.0.0.1", port))
    if kind == socket.SOCK_STREAM:
        one.listen(128)
    return one


def crowd(listeners: int, connections: int) -> list[socket.socket]:
    """Half of the sockets listen on TCP, half wait on UDP. The other ends of the connections are a child's."""
    half = listeners // 2
    kept = [opened(socket.SOCK_STREAM, port) for port in range(FIRST, FIRST + half)]
    kept += [opened(socket.SOCK_DGRAM, port) for port in range(FIRST, FIRST + listeners - half)]
    ports = [FIRST + number % half for number in range(connections)]
    multiprocessing.get_context("fork").Process(target=connect, args=(ports,), daemon=True).start()
    return kept + [kept[port - FIRST].accept()[0] for port in ports]


def connect(ports: Sequence[int]) -> None:
    """Connects to each, and keeps that until the parent ends."""
    kept = [socket.create_connection(("127.0.0.1", port)) for port in ports]
    signal.pause()
    kept.clear()


@contextlib.contextmanager
def secured_allocator(folder: Path, address: str) -> Iterator[None]:
    """An allocator that speaks TLS; whom its certificate is from stands in `ca.pem`."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "tls.pem")
    tls = (f"--tls-cert={folder}/tls.pem", f"--tls-key={folder}/tls.pem")
    with server(folder, "allocator", "serve", f"--listen={address}", "--http=127.0.0.1:0", "--journal=memory",
                "--cluster=none", *tls) as process:  # fmt: skip
        process.wait_for(address)
        yield


def resident(pid: int) -> dict[str, int]:
    """In KiB: all of it, what no file backs, and its share where it counts what others map too by halves (PSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    rolled_up = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    share = next(int(line.split()[1]) for line in rolled_up if line.startswith("Pss:"))
    return {"resident": int(sizes["VmRSS"]), "anonymous": int(sizes["RssAnon"]), "share": share}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.crowded_node", description=__doc__)
    parser.add_argument("--listeners", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    bring_loopback_up()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kept = crowd(options.listeners, options.connections)
    address = free_address()
    with tempfile.TemporaryDirectory(prefix="hostport-bench-") as name:
        folder = Path(name)
        alive = folder / "alive"
        flags = (
            "--node=localhost",
            f"--allocator={address}",
            f"--alive-file={alive}",
            f"--allocator-ca={folder}/ca.pem",
        )
        with secured_allocator(folder, address), server(folder, "agent", *flags) as agent:
            time.sleep(SETTLED_SECONDS)
            began = cpu_ns(agent.pid)
            time.sleep(options.seconds)
            spent = cpu_ns(agent.pid) - began
            assert time.time() - alive.stat().st_mtime < SETTLED_SECONDS, "it does not look any more"
            json.dump({"cpu": spent / options.seconds / 1e9, **resident(agent.pid)}, sys.stdout)
    for each in kept:
        each.close()


if __name__ == "__main__":
    main()
