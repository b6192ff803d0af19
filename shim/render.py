"""`python -m shim render`: manifests in, the Pods of them out as the webhook would make them. Nothing is reserved.

It goes the same way as a review of the API server, so that what it shows is what will be.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import unified_diff
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from hostport.contract import Notice
from hostport.credentials import Credentials
from hostport.flags import Address
from hostport.services import Moved, Selecting, moved_ports
from shim.admission import AdmissionAnswer, admit, warning_text
from shim.annotations import ALLOCATIONS, ENABLED
from shim.client import AllocatorClient
from shim.manifests import admission_review
from shim.outcomes import Allocate, Op, RemoveOp, Unreachable
from shim.pods import FieldError, as_object
from shim.reading import Fault, Read, called, read_document
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
    steers: bool = True  # whether Pods are kept off nodes where their numbers are held without a Pod
    namespace: str = "default"  # of objects that do not say
    templates: Sequence[str] = ()  # paths of Pod templates in kinds that are not known
    is_strict: bool = False


class ManifestError(ValueError):
    """The user's fault: a file cannot be read as a manifest."""


def render(options: RenderOptions, out: TextIO, err: TextIO) -> int:
    """Prints the Pods that are admitted on `out`, denials and warnings on `err`; 1 if anything was denied."""
    try:
        read = read_files(options.files, namespace=options.namespace, templates=options.templates)
        return asyncio.run(_render(options, read, out, err))
    except (ManifestError, OSError) as error:
        print(error, file=err)
        return 1


async def _render(options: RenderOptions, read: Read, out: TextIO, err: TextIO) -> int:
    async with _allocator(options) as allocate:
        return await render_pods(
            read.pods,
            allocate,
            dry_run=options.allocator is not None,
            services=read.services,
            faults=read.faults,
            is_strict=options.is_strict,
            own_network=options.own_network,
            steers=options.steers,
            output=options.output,
            out=out,
            err=err,
        )


def read_files(files: Sequence[str], *, namespace: str = "default", templates: Sequence[str] = ()) -> Read:
    """What is in these files.

    Args:
        files: their names, - for stdin.
        namespace: that of objects that do not say.
        templates: paths of Pod templates in kinds that are not known.

    Raises:
        ManifestError, OSError: one of them cannot be read.

    """
    parts = [part for name in files for part in _read(name, namespace, templates)]
    return Read(
        tuple(pod for part in parts for pod in part.pods),
        tuple(service for part in parts for service in part.services),
        tuple(fault for part in parts for fault in part.faults),
    )


async def render_pods(
    pods: Sequence[dict[str, Any]],
    allocate: Allocate,
    *,
    dry_run: bool,
    output: str,
    out: TextIO,
    err: TextIO,
    own_network: bool = False,
    steers: bool = False,
    services: Sequence[Selecting] = (),
    faults: Sequence[Fault] = (),
    is_strict: bool = False,
    sums_up: bool = False,
) -> int:
    """As `render`, with whatever allocates.

    Args:
        pods: the Pods, as the API server would show them to a webhook.
        allocate: who gives the numbers.
        dry_run: whether it reserves nothing, as an allocator can.
        output: yaml, json or diff.
        out: where that goes.
        err: where the rest goes.
        own_network: whether a Pod that does not say keeps a network of its own.
        steers: whether Pods are kept off nodes where their numbers are held without a Pod.
        services: Services beside them.
        faults: what is wrong with the files besides.
        is_strict: whether warnings count as well.
        sums_up: whether a last line says how much there was.

    """
    outcomes = [
        await _mutated(pod, number, allocate, dry_run=dry_run, own_network=own_network, steers=steers)
        for number, pod in enumerate(pods)
    ]
    lost = _lost(outcomes, services)
    findings = [
        *(("error", str(fault)) for fault in faults),
        *(finding for outcome in outcomes for finding in outcome.findings),
        *(("warning", f"{Notice.SERVICE_OLD_PORT}: {sentence}") for sentence in lost),
    ]
    err.writelines(f"{_LEADS[kind]}{sentence}\n" for kind, sentence in findings)
    summary = _summary(outcomes, len({sentence.split(" ", 2)[1] for sentence in lost}))
    if sums_up:
        err.write(f"{summary}\n")
    _write(outcomes, findings, summary, output, out)
    bad = {"error", "denied", "warning"} if is_strict else {"error", "denied"}
    return int(any(kind in bad for kind, _ in findings))


_LEADS = {"error": "", "denied": "denied ", "warning": "warning "}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A Pod as it came and as it would be stored, or None where it would not; and what is said about it."""

    came: dict[str, Any]
    pod: dict[str, Any] | None
    findings: tuple[tuple[str, str], ...]
    moved: Moved = field(default_factory=dict)


async def _mutated(
    pod: dict[str, Any], number: int, allocate: Allocate, *, dry_run: bool, own_network: bool, steers: bool
) -> _Outcome:
    metadata = pod["metadata"]
    who = f"{metadata['namespace']}/{metadata.get('name') or metadata.get('generateName', '') + '*'}"
    review = admission_review(pod, f"render-{number}", dry_run=dry_run)
    try:
        body = json.dumps(review, default=str).encode()
        answer = await admit(body, allocate, probe=allocate, own_network=own_network, steers=steers)
    except ReviewError as error:
        why = error.__cause__ if isinstance(error.__cause__, FieldError) else error  # nobody here wrote a review
        return _Outcome(pod, None, (("error", f"{who}: {why}"),))
    match answer:
        case Unreachable(reason, message):
            return _Outcome(pod, None, (("error", f"{who}: {reason}: {message}"),))
        case AdmissionAnswer(result="denied"):
            return _Outcome(pod, None, (("denied", f"{who}: {answer.detail}"),))
    told = tuple(("warning", f"{who}: {warning_text(warning)}") for warning in answer.warnings)
    stored = applied(pod, answer.ops)
    is_on_host = answer.result == "patched" and stored["spec"].get("hostNetwork")
    moved = moved_ports(stored["metadata"]["annotations"][ALLOCATIONS]) if is_on_host else {}
    return _Outcome(pod, stored, told, moved)


def _lost(outcomes: Sequence[_Outcome], services: Sequence[Selecting]) -> list[str]:
    """A sentence for each port of a Service that leads nowhere, by the first Pod that it loses."""
    found: dict[tuple[str, str, str], str] = {}
    moving = [(outcome.came["metadata"], outcome.moved) for outcome in outcomes if outcome.moved]
    for service in services:
        for metadata, moved in moving:
            if metadata["namespace"] == service.namespace and service.selects(metadata.get("labels") or {}):
                for target, sentence in service.lost(moved):
                    found.setdefault((service.namespace, service.name, str(target)), sentence)
    return list(found.values())


def _summary(outcomes: Sequence[_Outcome], services: int) -> str:
    pods = sum(outcome.pod is not None and outcome.pod != outcome.came for outcome in outcomes)
    moved = len({(_maker(outcome.came), *port) for outcome in outcomes for port in outcome.moved})
    if not outcomes:
        return "0 Pods: nothing that was read is known to make any"
    if not any(ENABLED in (outcome.came["metadata"].get("annotations") or {}) for outcome in outcomes):
        return f"{_how_many(len(outcomes), 'Pod')}, none of which asks for ports: {ENABLED} is not in its annotations"
    return f"{_how_many(pods, 'Pod')}, {_how_many(moved, 'port')} moved, {_how_many(services, 'Service')} to change"


def _maker(pod: dict[str, Any]) -> str:
    """Whose Pod it is: a port of a workload is one, however many replicas there are."""
    metadata = pod["metadata"]
    owners = metadata.get("ownerReferences") or [{}]
    return f"{metadata['namespace']}/{owners[0].get('uid') or metadata.get('name')}"


def _how_many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


def _read(name: str, namespace: str, templates: Sequence[str]) -> Iterator[Read]:
    for document in _documents(name):
        about = ""
        try:
            whole = as_object(document, "a document")
            with suppress(FieldError):
                about = f"{called(whole)}: "
            yield read_document(whole, namespace=namespace, templates=templates)
        except FieldError as error:
            raise ManifestError(f"{name}: {about}{error}") from error


def _documents(name: str) -> Iterable[Any]:
    import yaml  # noqa: PLC0415 - the webhook itself does without

    class Loader(yaml.SafeLoader):
        """YAML as the API server's clients read it: a lone `=` is text."""

    Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: str(node.value))
    source = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()  # YAML tells the encoding itself
    try:
        return [document for document in yaml.load_all(source, Loader) if document is not None]
    except yaml.YAMLError as error:
        raise ManifestError(f"{name}: {error}") from error


def _write(
    outcomes: Sequence[_Outcome], findings: Sequence[tuple[str, str]], summary: str, output: str, out: TextIO
) -> None:
    pods = [outcome.pod for outcome in outcomes if outcome.pod is not None]
    if output == "json":
        told = [{"kind": kind, "message": message} for kind, message in findings]
        listed = {"apiVersion": "v1", "kind": "List", "items": pods, "findings": told, "summary": summary}
        json.dump(listed, out, indent=2, default=str)
        out.write("\n")
        return
    import yaml  # noqa: PLC0415 - the webhook itself does without

    if output == "yaml":
        yaml.safe_dump_all(pods, out, sort_keys=False, explicit_start=True)
        return
    for outcome in outcomes:
        if outcome.pod is not None:
            metadata = outcome.pod["metadata"]
            name = f"{metadata['namespace']}/{metadata.get('name') or metadata.get('generateName', '') + '*'}"
            before, after = (yaml.safe_dump(each, sort_keys=False).splitlines() for each in (outcome.came, outcome.pod))
            lines = unified_diff(before, after, f"{name} (template)", f"{name} (admitted)", lineterm="")
            out.writelines(f"{line}\n" for line in lines)


def applied(document: Any, ops: Iterable[Op]) -> Any:
    """A document after JSON Patch operations, as the API server would apply them; a new one."""
    result = deepcopy(document)
    for op in ops:
        *parents, last = [_unescaped(step) for step in op.path.split("/")[1:]]
        parent = result
        for step in parents:
            parent = parent[int(step) if isinstance(parent, list) else step]
        _apply(parent, last, op)
    return result


def _apply(parent: Any, last: str, op: Op) -> None:
    if isinstance(op, RemoveOp):
        del parent[int(last) if isinstance(parent, list) else last]
    elif isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else int(last), deepcopy(op.value))
    else:
        parent[last] = deepcopy(op.value)


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
