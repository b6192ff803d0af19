"""`python -m shim render`: manifests in, the Pods of them out as the webhook would make them. Nothing is reserved.

It goes the same way as a review of the API server, so that what it shows is what will be.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from hostport.credentials import Credentials
from hostport.flags import Address
from shim.admission import Answer, admit
from shim.client import AllocatorClient
from shim.fields import FieldError, as_object
from shim.manifests import admission_review, pods_of
from shim.outcomes import Allocate, Unreachable
from shim.pointers import applied
from shim.review import ReviewError

PATIENCE = 5.0
"""Seconds for each Pod, as long as the webhook has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What the command line says. `allocator` None: offline."""

    files: Sequence[str]
    output: str
    allocator: Address | None
    credentials: Credentials
    own_network: bool = False  # of a Pod that does not say which network it has


class ManifestError(ValueError):
    """The user's fault: a file cannot be read as a manifest."""


def render(options: RenderOptions, out: TextIO, err: TextIO) -> int:
    """Prints the Pods that are admitted on `out`, denials and warnings on `err`; 1 if anything was denied."""
    try:
        pods = read_pods(options.files)
        return asyncio.run(_render(options, pods, out, err))
    except (ManifestError, OSError) as error:
        print(error, file=err)
        return 1


async def _render(options: RenderOptions, pods: list[dict[str, Any]], out: TextIO, err: TextIO) -> int:
    async with _allocator(options) as allocate:
        return await render_pods(
            pods,
            allocate,
            dry_run=options.allocator is not None,
            own_network=options.own_network,
            output=options.output,
            out=out,
            err=err,
        )


def read_pods(files: Sequence[str]) -> list[dict[str, Any]]:
    """The Pods that the manifests in these files make.

    Raises:
        ManifestError, OSError: one of them cannot be read.

    """
    return [pod for name in files for pod in _pods_in(name)]


async def render_pods(
    pods: Sequence[dict[str, Any]],
    allocate: Allocate,
    *,
    dry_run: bool,
    output: str,
    out: TextIO,
    err: TextIO,
    own_network: bool = False,
) -> int:
    """As `render`, with whatever allocates. `dry_run`: whether it reserves nothing, as an allocator can."""
    outcomes = [
        await _mutated(pod, number, allocate, dry_run=dry_run, own_network=own_network)
        for number, pod in enumerate(pods)
    ]
    for outcome in outcomes:
        err.writelines(f"{line}\n" for line in outcome.remarks)
    _write([outcome.pod for outcome in outcomes if outcome.pod is not None], output, out)
    return 0 if all(outcome.pod is not None for outcome in outcomes) else 1


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A Pod as it would be stored, or None where it would not; and what is said about it."""

    pod: dict[str, Any] | None
    remarks: tuple[str, ...]


async def _mutated(
    pod: dict[str, Any], number: int, allocate: Allocate, *, dry_run: bool, own_network: bool
) -> _Outcome:
    metadata = pod["metadata"]
    who = f"{metadata['namespace']}/{metadata.get('name') or metadata.get('generateName', '') + '*'}"
    review = admission_review(pod, f"render-{number}", dry_run=dry_run)
    try:
        body = json.dumps(review, default=str).encode()
        answer = await admit(body, allocate, probe=allocate, own_network=own_network)
    except ReviewError as error:
        return _Outcome(None, (f"{who}: {error}",))
    match answer:
        case Unreachable(reason, message):
            return _Outcome(None, (f"{who}: {reason}: {message}",))
        case Answer(result="denied"):
            return _Outcome(None, (f"denied {who}: {answer.detail}",))
    return _Outcome(applied(pod, answer.ops), tuple(f"warning {who}: {warning}" for warning in answer.warnings))


@asynccontextmanager
async def _allocator(options: RenderOptions) -> AsyncIterator[Allocate]:
    if options.allocator is None:
        from shim.offline import offline_allocator  # noqa: PLC0415 - where the allocator is not installed

        yield offline_allocator()
        return
    client = AllocatorClient(options.allocator, options.credentials)
    try:
        yield partial(_ask, client)
    finally:
        await client.close()


async def _ask(client: AllocatorClient, request: Any) -> Any:
    return await client.allocate(request, deadline=asyncio.get_running_loop().time() + PATIENCE)


def _pods_in(name: str) -> Iterator[dict[str, Any]]:
    try:
        for document in _documents(name):
            yield from pods_of(as_object(document, "a document"))
    except FieldError as error:
        raise ManifestError(f"{name}: {error}") from error


def _documents(name: str) -> Iterable[Any]:
    import yaml  # noqa: PLC0415 - the webhook itself does without

    source = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    try:
        return [document for document in yaml.safe_load_all(source) if document is not None]
    except yaml.YAMLError as error:
        raise ManifestError(f"{name}: {error}") from error


def _write(pods: list[dict[str, Any]], output: str, out: TextIO) -> None:
    if output == "json":
        json.dump({"apiVersion": "v1", "kind": "List", "items": pods}, out, indent=2, default=str)
        out.write("\n")
        return
    import yaml  # noqa: PLC0415 - as above

    yaml.safe_dump_all(pods, out, sort_keys=False, explicit_start=True)
