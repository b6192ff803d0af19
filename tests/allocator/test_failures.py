"""A fault in any background loop ends the process, with one line that says which loop and why. Real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from testing.apiserver import ApiServer

ROOT = Path(__file__).resolve().parents[2]
PLANTED = Path(__file__).with_name("planted.py")
FLAGS = ("--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--journal=memory")
NAMESPACE = "hostport-system"


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    yield server
    await server.stop()


def kubernetes(server: ApiServer, folder: Path) -> tuple[str, ...]:
    """The flags of an allocator that has every loop there is."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": server.url}}],
        "users": [{"name": "me", "user": {"token": "x"}}],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return (
        "--cluster=kubernetes",
        f"--kubeconfig={file}",
        f"--lease-namespace={NAMESPACE}",
        "--pod-name=allocator-0",
        "--pod-uid=uid-0",
        "--port-leases",
        "--certificates=builtin",
    )


async def failed(program: str, where: str, *flags: str) -> tuple[int | None, list[str]]:
    """The exit status of a program with a fault there, and its last words: the lines that are critical."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PLANTED), program, where, *flags, stderr=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    lines = [json.loads(line) for line in said.decode().splitlines() if line.startswith("{")]
    return process.returncode, [line["message"] for line in lines if line["level"] == "critical"]


LOOPS = {
    "cluster": ("cluster", "allocator.cluster.kubernetes:KubernetesCluster.run"),
    "the first of those who follow": ("nodes", "allocator.cluster.reflector:Reflector.forever"),
    "proofs": ("proofs", "allocator.cluster.freshness:FreshnessProbe.forever"),
    "lease": ("lease", "allocator.cluster.elector:LeaderElector.keep"),
    "hearing of the Lease": ("lease", "allocator.cluster.elector:LeaderElector._watch"),
    "portleases": ("portleases", "allocator.leases.reconciler:LeaseReconciler.run"),
    "reconciling": ("reconciling", "allocator.leases.reconciler:LeaseReconciler._reconcile_forever"),
    "certificates": ("certificates", "allocator.certificates.keeper:CertificateKeeper.forever"),
    "a round of certificates": ("certificates", "allocator.certificates.keeper:CertificateKeeper._round"),
    "signpost": ("signpost", "allocator.cluster.signpost:Signpost.forever"),
    "health": ("health", "allocator.app.lifecycle:Lifecycle._tell_health"),
    "sight": ("sight", "allocator.app.lifecycle:Lifecycle._see_all"),
    "events": ("events", "allocator.cluster.events:EventWriter.forever"),
    "tick": ("tick", "allocator.app.lifecycle:Lifecycle._tick"),
    "start": ("start", "allocator.app.lifecycle:Lifecycle._start_serving"),
}


@pytest.mark.parametrize(("loop", "where"), LOOPS.values(), ids=LOOPS.keys())
async def test_a_fault_in_a_loop_ends_the_process_and_is_named(
    loop: str, where: str, server: ApiServer, tmp_path: Path
) -> None:
    code, said = await failed("allocator", where, *FLAGS, *kubernetes(server, tmp_path))

    assert (code, said) == (1, [f"cannot go on: the background loop {loop!r} failed: ArithmeticError: planted"])


async def test_a_fault_in_following_a_file_ends_the_process_and_is_named(tmp_path: Path) -> None:
    where = "allocator.cluster.file:FileCluster._look"
    code, said = await failed("allocator", where, *FLAGS, f"--cluster=file:{tmp_path}/cluster.yaml")

    assert (code, said) == (1, ["cannot go on: the background loop 'cluster' failed: ArithmeticError: planted"])


async def test_a_fault_in_a_loop_of_the_shim_ends_it_too() -> None:
    code, said = await failed("shim", "shim.runtime:Shim.follow_files", "--listen=127.0.0.1:0", "--http=127.0.0.1:0")

    assert (code, said) == (1, ["cannot go on: the background loop 'files' failed: ArithmeticError: planted"])
