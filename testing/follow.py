"""Which files of the product one thing passes through: `python -m testing.follow`, and docs/follow.md.

Allocator and shim run here in one process, with real sockets, a journal on disk and a simulated API server. Python's
profiler says which function of which file is entered. Rules:

* Whatever happens once (an import, a first connection, a cache that is empty) has happened before the trace begins.
* A function is entered when it is called. One that goes on, since what it waited for has come, or since one more value
  is wanted of it, was entered before: whoever follows the thing has that file open, or never needed it.
* A change of file is a call whose file is another than that of the call before it. Generated code does not count.
* One thing is traced at a time, and the trace ends when its answer is there and the journal has it.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from tornado.httpclient import AsyncHTTPClient

from allocator.access.guard import Guard
from allocator.cluster.kubernetes import KubernetesCluster
from allocator.cluster.reflector import WatchTuning
from allocator.core.admission import LedgerRules
from allocator.journal.sqlite import SqliteJournal
from allocator.metrics import AllocatorMetrics
from hostport.flags import Address
from hostport.v1 import allocator_pb2 as pb
from shim.runtime import Shim, ShimOptions
from testing.apiserver import ApiServer
from testing.observing import node, pod
from testing.servicekit import Running
from testing.waiting import until

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("allocator", "shim", "hostport")
GENERATED = ("_pb2", "hostport/v1/")
GOES_ON = 3
"""Bits of the argument of RESUME, with which every stretch of a function begins: zero at its start, and not after it
has yielded or awaited something."""
NEVER = 3600.0
"""Seconds between two proofs that the view of the cluster is current: none comes into a trace."""
PAGE = ROOT / "docs" / "follow.md"
REVIEW = ROOT / "examples" / "admission-review.json"


@dataclass(slots=True)
class Walk:
    """The calls of one thing on its way, as (file, function), in their order."""

    name: str
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """Each file once, in the order in which they are first entered."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    @property
    def changes(self) -> int:
        return sum(one != other for (one, _), (other, _) in pairwise(self.calls))

    def __str__(self) -> str:
        functions = len(set(self.calls))
        return f"{self.name}: {len(self.files)} files, {functions} functions, {self.changes} changes of file"


@contextmanager
def following(walk: Walk) -> Iterator[None]:
    """Writes the calls of this thread, and of threads that begin now, into `walk`."""

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(ROOT)) or code.co_name == "<module>":
            return
        if code.co_code[frame.f_lasti + 1] & GOES_ON:
            return
        file = code.co_filename[len(str(ROOT)) + 1 :]
        if file.split("/", 1)[0] in PROGRAMS and not any(part in file for part in GENERATED):
            walk.calls.append((file, code.co_qualname))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def untraced(look: Callable[[], bool]) -> bool:
    """What the tracer itself asks of the product is on nobody's way."""
    profile = sys.getprofile()
    sys.setprofile(None)
    try:
        return look()
    finally:
        sys.setprofile(profile)


@dataclass(slots=True)
class Stage:
    """An allocator, the API server that it follows, and a shim where one is wanted."""

    service: Running
    server: ApiServer
    review: Any
    commits: Counter[float]  # of the journal, by the submissions that each had
    url: str = ""  # of the shim

    @asynccontextmanager
    async def beside_a_shim(self) -> AsyncIterator[None]:
        """While no shim is asked there is none: it would look after its connections in the trace of something else."""
        nowhere = Address("127.0.0.1", 0)
        shim = Shim(ShimOptions(listen=nowhere, http=nowhere, allocator=self.service.address))
        self.url = shim.url
        try:
            yield
        finally:
            await shim.stop()

    async def admit(self, uid: str) -> None:
        """Sends the recorded AdmissionReview as a new one."""
        self.review["request"]["uid"] = f"review-{uid}"
        for owner in self.review["request"]["object"]["metadata"]["ownerReferences"]:
            owner["uid"] = uid  # one that waits for no earlier Pod of its own
        answer = await AsyncHTTPClient().fetch(
            f"{self.url}/mutate?timeout=5s",
            method="POST",
            headers={"Content-Type": "application/json"},
            body=json.dumps(self.review),
        )
        response = json.loads(answer.body)["response"]
        if not (response["allowed"] and "patch" in response):
            raise AssertionError(response)

    async def allocate(self, name: str, kind: str = "Pod") -> str:
        """Returns the allocation's id."""
        request = pb.AllocateRequest(
            request_id=name,
            owner=pb.Owner(kind=kind, namespace="demo", name=name),
            policy=pb.POLICY_DYNAMIC,
            ports=[pb.PortRequest(container="c", name="web", container_port=80)],
        )
        return (await self.service.stub.Allocate(request)).allocation.id

    async def renew(self, allocation: str) -> None:
        await self.service.stub.Renew(pb.RenewRequest(id=allocation))

    async def store(self, name: str, allocation: str, number: int) -> None:
        """The API server stores the Pod of an allocation; returns when the journal has what that changed."""
        before = self.commits.total()
        self.server.put("pods", pod(name, f"web:80={number}", carries=allocation, at="n1"))
        engine = self.service.engine
        await until(lambda: untraced(lambda: name in engine.maintenance.known_pods()))
        engine.changes.save_all()
        await until(lambda: self.commits.total() > before)


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    """A stage whose connections are open and whose caches are warm."""
    server = ApiServer()
    await server.start()
    for name in ("n1", "n2", "n3"):
        server.put("nodes", node(name))
    metrics, commits = AllocatorMetrics(), Counter[float]()
    meters = replace(metrics.of_journal(), submissions=lambda number: commits.update((number,)))
    journal = SqliteJournal(directory / "journal.db", meters=meters).open_now()
    service = Running(journal, LedgerRules(), Guard(), metrics)
    await service.start()
    cluster = KubernetesCluster(server.client(), tuning=WatchTuning(proof_seconds=NEVER))
    running = asyncio.create_task(cluster.run(service.engine.maintenance))
    await cluster.synced()
    stage = Stage(service, server, json.loads(REVIEW.read_text(encoding="utf-8")), commits)
    try:
        yield stage
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await service.stop()
        journal.close()
        await server.stop()


async def walks() -> list[Walk]:
    """An AdmissionReview, an Allocate RPC, a Pod event, and a renewal, each after three of its kind."""
    traced: list[Walk] = []

    async def trace(name: str, act: Callable[[], Awaitable[object]]) -> None:
        walk = Walk(name)
        await over()
        with following(walk):
            await act()
        traced.append(walk)

    with tempfile.TemporaryDirectory() as directory:
        async with staged(Path(directory)) as stage:
            lease = await stage.allocate("relay", kind="Relay")
            async with stage.beside_a_shim():
                for number in range(3):
                    await stage.admit(f"warm-{number}")
                    claim = await stage.allocate(f"stored-{number}")
                    await stage.store(f"stored-{number}", claim, number_of(stage, claim))
                    await stage.renew(lease)
                claim = await stage.allocate("followed")
                await trace("AdmissionReview", lambda: stage.admit("followed"))
            await trace("Allocate RPC", lambda: stage.allocate("one-more"))
            number = number_of(stage, claim)
            await trace("Pod event", lambda: stage.store("followed", claim, number))
            await trace("renewal", lambda: stage.renew(lease))
    return traced


async def over() -> None:
    """Returns when what follows the thing before is over: in a while nothing of the product was entered."""
    async with asyncio.timeout(30):
        while True:
            rest = Walk("")
            with following(rest):
                await asyncio.sleep(0.3)
            if not rest.calls:
                return


def number_of(stage: Stage, claim: str) -> int:
    """The host port of an allocation with one port."""
    return next(each.ports[0].host_port for each in stage.service.engine.ledger.claims if each.id == claim)


# -- the page

HEAD = """# Follow one thing

For whoever reads the code: the files that an AdmissionReview, an Allocate RPC, a Pod event and the renewal of a lease
pass through, in their order. The columns say the file, the first line of its head, and the function by which it is
first entered. `make docs` makes this page from a trace of both programs in one process (`testing/follow.py`), and a
test traces them anew.

A file stands here where one of its functions is called. A function that only goes on, because what it waited for has
come, was called before: the loops that wait for events and messages are not named.
"""


def page(traced: list[Walk]) -> str:
    """docs/follow.md: for each walk its files in order, with what each says of itself."""
    parts = [HEAD.rstrip()]
    for walk in traced:
        parts.append(f"\n## One {walk.name}\n\n{len(walk.files)} files.\n")
        parts.append("| file | what it is | first entered at |\n|---|---|---|")
        entries = dict(reversed(walk.calls))
        parts += [f"| `{file}` | {first_line(file)} | `{entries[file]}` |" for file in walk.files]
    return "\n".join(parts) + "\n"


def unless_reordered(made: str, stands: str) -> str:
    """The page that was made; the one that stands, where only the order of lines differs.

    What runs side by side may be entered in either order.
    """
    return stands if sorted(made.splitlines()) == sorted(stands.splitlines()) else made


def first_line(file: str) -> str:
    """The first sentence of a module."""
    text = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", action="store_true", help="name the files, with the calls in each")
    parser.add_argument("--json", action="store_true", help="print the files of each, and how often it changes file")
    parser.add_argument("--page", action="store_true", help="print docs/follow.md")
    options = parser.parse_args()
    traced = asyncio.run(walks())
    if options.page:
        print(unless_reordered(page(traced), PAGE.read_text(encoding="utf-8")), end="")
        return
    if options.json:
        print(json.dumps({walk.name: {"files": walk.files, "changes": walk.changes} for walk in traced}))
        return
    for walk in traced:
        print(walk)
        if options.files:
            files = [file for file, _ in walk.calls]
            print(*(f"    {file} ({files.count(file)} calls)" for file in walk.files), sep="\n")


if __name__ == "__main__":
    main()
