"""`hostport.io/publish-<port>`: where else a number is written, and where it may not be. Pure.

Rules:

* The name behind `publish-` is that of a port as `port_names` reads it.
* A key that Kubernetes, this program or somebody who injects or grants something acts on is none of the user's to have
  written. A label's key has a domain, since workloads select their Pods by those without.
* Nothing is allocated for a Pod whose targets are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from hostport.contract import Mistake, Reason
from hostport.contract.annotations import PREFIX
from hostport.contract.limits import Bound
from shim.annotations import PUBLISH
from shim.outcomes import AddOp, Op, quoted
from shim.pods import NewPod
from shim.port_names import places_by_name, places_of
from shim.ports import VARIABLE_PREFIX as VARIABLES
from shim.ports import AssignedPort, Entries, pointer_to

KINDS = ("env", "annotation", "label")
LONGEST = 253
_VARIABLE = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{LONGEST - 1}}}")
_KEY = re.compile(
    r"(?:(?P<domain>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)
_RUNS_CODE = frozenset({"PATH", "BASH_ENV", "ENV", "IFS", "PYTHONPATH", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "RUBYOPT"})

TAKEN = (
    "kubernetes.io", "k8s.io", PREFIX.rstrip("/"),
    "istio.io", "linkerd.io", "kuma.io", "dapr.io", "hashicorp.com", "consul.io", "opentelemetry.io", "datadoghq.com",
    "cilium.io", "projectcalico.org", "cncf.io", "ovn.org", "openshift.io", "amazonaws.com", "azure.com", "azure.io",
    "googleapis.com", "gke.io", "azure.workload.identity", "cert-manager.io", "external-secrets.io", "knative.dev",
)  # fmt: skip
"""Domains whose keys are acted on; with everything below them."""


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One place where the number of some ports is written: those at these places in `NewPod.ports`, of one number."""

    kind: str
    key: str
    ports: tuple[int, ...]


def publications(pod: NewPod) -> tuple[tuple[Publication, ...], tuple[Mistake, ...]]:
    """What the Pod wants to have published, and what is wrong with it."""
    wanted = {name: value for name, value in pod.annotations.items() if name.startswith(PUBLISH)}
    if not wanted:
        return (), ()
    count = sum([value.count(",") + 1 for value in wanted.values()])
    if count > Bound.PUBLISHED.most:
        return (), (Mistake(Reason.TOO_COMPLEX, "metadata.annotations", Bound.PUBLISHED.told(count)),)
    names = places_by_name(pod)
    found: list[Publication] = []
    mistakes: list[Mistake] = []
    for name, value in wanted.items():
        field = f"annotation {quoted(name).strip(chr(34))}"
        ports, why = places_of(pod, names, name.removeprefix(PUBLISH), PUBLISH, guesses=not mistakes)
        mistakes += [_wrong(field, why)] if why else []
        for target in value.split(","):
            kind, key, why = _target(target.strip())
            mistakes += [_wrong(field, why)] if why else []
            found.append(Publication(kind, key, ports))
    mistakes += _doubles(pod, found)
    return tuple(found), tuple(mistakes)


def _target(target: str) -> tuple[str, str, str]:
    """Kind and key of a target, and what is wrong with it."""
    kind, _, key = target.partition(":")
    if kind not in KINDS:
        return kind, key, f"{quoted(target)} is no target: write env:NAME, annotation:KEY or label:KEY"
    if kind == "env":
        return kind, key, _wrong_variable(key)
    return kind, key, _wrong_key(kind, key)


def _wrong_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        return f"{quoted(name)} is no name of a variable: use letters, digits and _"
    if name.startswith((VARIABLES, "LD_", "DYLD_", "KUBERNETES_")) or name in _RUNS_CODE:
        return f"variable {name} may not be written: choose another name"
    return ""


def _wrong_key(kind: str, key: str) -> str:
    match = _KEY.fullmatch(key)
    if not match:
        return f"{quoted(key)} is no key of {'an annotation' if kind == 'annotation' else 'a label'}"
    domain = match["domain"] or ""
    if "inject" in key.lower() or any(domain == each or domain.endswith(f".{each}") for each in TAKEN):
        return f"key {quoted(key)} may not be written: others act on it. Choose a key of your own domain"
    if kind == "label" and not domain:
        return f"label {quoted(key)} has no domain, and workloads select by such: write example.com/{key}"
    return ""


def _doubles(pod: NewPod, found: Sequence[Publication]) -> Iterator[Mistake]:
    """Two different numbers for one place."""
    seen: dict[tuple[str, str, str], tuple[str, int]] = {}
    for each in found:
        for port in (pod.ports[at] for at in each.ports[:1]):
            place = (each.kind, each.key, port.container if each.kind == "env" else "")
            if seen.setdefault(place, port.socket) != port.socket:
                why = f"{each.kind}:{each.key} is wanted by two ports: give each a target of its own"
                yield _wrong(f"annotations {PUBLISH}*", why)


def _wrong(field: str, why: str) -> Mistake:
    return Mistake(Reason.PUBLISH_INVALID, field, why)


def published(
    pod: NewPod, assigned: Iterable[AssignedPort], publications: Iterable[Publication], kind: str
) -> Iterator[tuple[AssignedPort, str]]:
    """What is to be written of one kind: ports with their numbers, and keys."""
    wanted = [each for each in publications if each.kind == kind]
    by_pointer = {each.port.pointer: each for each in assigned} if wanted else {}
    for publication in wanted:
        found = by_pointer.get(pod.ports[publication.ports[0]].pointer)
        if found is not None:
            yield found, publication.key


def published_variables(
    pod: NewPod, assigned: Iterable[AssignedPort], publications: Iterable[Publication]
) -> dict[int, Entries]:
    """The variables that the user wants to have numbers, by place of container."""
    variables: dict[int, Entries] = {}
    for each, key in published(pod, assigned, publications, "env"):
        variables.setdefault(each.at, {})[key] = {"name": key, "value": str(each.number)}
    return variables


def published_notes(pod: NewPod, assigned: Iterable[AssignedPort], publications: Iterable[Publication]) -> Iterator[Op]:
    """What writes the annotations and the labels."""
    for each, key in published(pod, assigned, publications, "annotation"):
        if pod.annotations.get(key) != str(each.number):
            yield AddOp(pointer_to(key), str(each.number))
    is_there = pod.has_labels
    for each, key in published(pod, assigned, publications, "label"):
        if not is_there:
            yield AddOp("/metadata/labels", {})
        is_there = True
        if pod.labels.get(key) != str(each.number):
            yield AddOp(pointer_to(key, "labels"), str(each.number))
