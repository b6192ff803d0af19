"""The cluster, through kubectl as a child process.

Why not a client library: what kubectl reaches, we reach. Contexts, credential plug-ins, proxies, impersonation and the
port-forward protocol are kubectl's, in the version that the user has; a request costs 0.1 s, half a second less than
to import the Python client, and the installation is a fifth as large.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar, cast

from hostport_cli.exits import CliError, Exit

T = TypeVar("T")

TIMEOUT = "10s"
FORWARD_SECONDS = 15.0
FORWARD_PACE = 1.0
"""Seconds from the end of a forward to the next one."""
TOKEN_PACE = 300.0
"""Seconds between two tokens. The shortest life that an API server gives one is twice as long."""
WITHOUT_KUBECONFIG = re.compile(
    r"^The connection to the server localhost:8080 was refused|http://localhost:8080/|current-context must exist",
    re.MULTILINE,
)
"""What kubectl says where it was told of no cluster at all: it then tries localhost, or looks for the context."""
LOGGED = re.compile(r"^[EWI]\d{4} .*?\] ")
"""Stands before what kubectl logs."""
CAUSE = re.compile(r"Unable to connect to the server: |The connection to the server |Error from server|[Ee]rror: ")
"""A line that says why begins so; what belongs to it follows, up to an empty line."""
REASON = re.compile(r"^(?:Error from server|error: You must be)[^\n]*?\((\w+)\)", re.MULTILINE)


class KubectlError(CliError):
    """kubectl failed. `reason` is the API server's word, such as NotFound; empty: there was no answer of it."""

    def __init__(self, message: str, reason: str) -> None:
        codes = {"NotFound": Exit.NOT_FOUND, "Forbidden": Exit.NOT_ALLOWED, "Unauthorized": Exit.NOT_ALLOWED}
        super().__init__(message, codes.get(reason, Exit.FAILED if reason else Exit.UNREACHABLE))
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """Which cluster, as kubectl's flags say it; empty: as kubectl finds it by itself."""

    context: str = ""
    kubeconfig: str = ""
    program: str = "kubectl"

    @property
    def is_there(self) -> bool:
        return shutil.which(self.program) is not None

    async def get(self, path: str) -> Any:
        """The object at a path of the API server.

        Raises:
            KubectlError: it cannot be had.

        """
        return json.loads(await self.run("get", "--raw", path, f"--request-timeout={TIMEOUT}"))

    async def find(self, path: str) -> Any | None:
        """The object at a path of the API server; None where there is none. Raises KubectlError as `get` does."""
        try:
            return await self.get(path)
        except KubectlError as error:
            if error.reason == "NotFound":
                return None
            raise

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What the API server makes of an object; raises as `get` does."""
        arguments = ("create", "--raw", path, "-f", "-", f"--request-timeout={TIMEOUT}")
        return json.loads(await self.run(*arguments, stdin=json.dumps(body)))

    async def namespace(self) -> str:
        """The namespace of the context."""
        found = await self.run("config", "view", "--minify", "-o", "jsonpath={..namespace}")
        return found.strip() or "default"

    @contextlib.asynccontextmanager
    async def tokens(
        self, account: str, default_namespace: str, audience: str, *, pace: float = TOKEN_PACE
    ) -> AsyncIterator[Callable[[], str]]:
        """Gives the newest token of a ServiceAccount, `[NAMESPACE/]NAME`: made anew as long as the context lasts.

        Raises:
            KubectlError: the first one cannot be had. Where that is so later, the former one stays.

        """
        newest = await self._token(account, default_namespace, audience)

        async def renew() -> None:
            nonlocal newest
            while True:
                await asyncio.sleep(pace)
                with contextlib.suppress(KubectlError):
                    newest = await self._token(account, default_namespace, audience)

        async with _beside(renew()):
            yield lambda: newest

    async def _token(self, account: str, default_namespace: str, audience: str) -> str:
        namespace, _, name = account.rpartition("/")
        place = f"--namespace={namespace or default_namespace}"
        return (await self.run("create", "token", name, place, f"--audience={audience}")).strip()

    async def run(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl prints; raises KubectlError when it fails."""
        process = await self._start(*arguments)
        try:
            out, err = await process.communicate(stdin.encode())
        finally:
            await _end_process(process)
        if process.returncode:
            raise _failure_of(err.decode(errors="replace"))
        return out.decode()

    @contextlib.asynccontextmanager
    async def forward(
        self, namespace: str, target: str, port: str, *, pace: float = FORWARD_PACE
    ) -> AsyncIterator[str]:
        """An address on loopback that leads to a port of a Service or Pod, as long as the context lasts.

        kubectl leads to one Pod, and ends with it: then it is started again, for the same address.

        Raises:
            KubectlError: the first forward fails.

        """
        where = ("port-forward", f"--namespace={namespace}", "--address=127.0.0.1", target)
        process = await self._start(*where, f":{port}")
        try:
            address = await _forwarded_address(process)
        except BaseException:
            await _end_process(process)
            raise
        again = (*where, f"{address.rpartition(':')[2]}:{port}")
        async with _beside(self._keep_forwarding(process, again, pace)):
            yield address

    async def _keep_forwarding(self, process: asyncio.subprocess.Process, again: Sequence[str], pace: float) -> None:
        """Reads what kubectl says, or it would wait for that; where it has ended it is started `again`."""
        while True:
            try:
                await process.communicate()
            finally:
                await _end_process(process)
            await asyncio.sleep(pace)
            with contextlib.suppress(KubectlError):  # it cannot be run for once: the next time
                process = await self._start(*again)

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        place = [f"--context={self.context}"] if self.context else []
        place += [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig else []
        pipe = asyncio.subprocess.PIPE
        try:
            return await asyncio.create_subprocess_exec(
                self.program, *place, *arguments, stdin=pipe, stdout=pipe, stderr=pipe
            )
        except OSError as error:
            message = f"{self.program} cannot be run ({error.strerror}): install it, or name the allocator by --server"
            raise KubectlError(message, "") from error


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Does some work as long as the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def together(*work: Awaitable[T]) -> list[T]:
    """What all of it gives, in its order.

    Raises:
        Exception: the first that one of them raised, when all have ended: what is cut off as it starts a process makes
            asyncio complain on the terminal.

    """
    given = await asyncio.gather(*work, return_exceptions=True)
    for each in given:
        if isinstance(each, BaseException):
            raise each
    return cast("list[T]", given)


async def _forwarded_address(process: asyncio.subprocess.Process) -> str:
    """The address that kubectl tells, once it listens."""
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - asked for at the start
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FORWARD_SECONDS):
            line = (await process.stdout.readline()).decode()
            found = re.search(r"Forwarding from (127\.0\.0\.1:\d+)", line)
            if found:
                return found[1]
            raise _failure_of((await process.stderr.read()).decode(errors="replace"))
    raise KubectlError(f"kubectl port-forward said nothing for {FORWARD_SECONDS:g} s", "")


async def _end_process(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _failure_of(said: str) -> KubectlError:
    """The cause of all that kubectl said, as one line, with the reason of the API server if it gave one."""
    if WITHOUT_KUBECONFIG.search(said):
        return KubectlError(
            "kubectl knows no cluster: there is no kubeconfig, or it has no current context. Name one by --kubeconfig "
            "or KUBECONFIG, its context by --context, or the allocator by --server",
            "",
        )
    found = REASON.search(said)
    reason = found[1] if found else ("Forbidden" if " is forbidden: " in said else "")
    cause = re.sub(r"^(Error from server \(\w+\)|[Ee]rror): ", "", _cause(said.strip().splitlines()))
    return KubectlError(f"kubectl: {cause}", reason)


def _cause(lines: Sequence[str]) -> str:
    """The first line that says why, with what belongs to it; the last line where none does."""
    begin = next((at for at, line in enumerate(lines) if CAUSE.match(line)), None)
    if begin is None:
        last = next((line for line in reversed(lines) if line.strip()), "kubectl failed without a word")
        return LOGGED.sub("", last)
    more = takewhile(lambda line: line.strip() and not (CAUSE.match(line) or LOGGED.match(line)), lines[begin + 1 :])
    return " ".join([lines[begin].strip(), *(line.strip() for line in more)])
