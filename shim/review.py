"""From the bytes of an AdmissionReview to what is to be done about it. Pure.

Rules:

* The body is parsed once, here. Two ways to fail: `ReviewError` is the caller's fault (HTTP 400, so that failurePolicy
  decides); `Denied` is the user's (an answer, with every mistake that was found).
* Whoever does not ask for ports is left alone: nothing but the one annotation is looked at before that is known.
* The allocator decides; this module asks. It denies only what the allocator cannot see: annotations, and fields that
  Kubernetes refuses together with hostNetwork.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hostport.contract import Mistake, Notice, PodWarning
from hostport.contract.limits import LONGEST_NAME
from hostport.v1.allocator_pb2 import (
    AllocateRequest,
    Policy,
)
from shim.allocation_request import (
    LONGEST_ID,
    allocation_request,
    foretold_patch,
    index_of,
    port_mistakes,
    too_long,
    too_much,
    wrong_network,
)
from shim.annotations import (
    ALLOCATIONS,
    BLOCK,
    ENABLED,
    INDEXED,
    PUBLISH,
    PodSettings,
    doubts,
    parse_settings,
)
from shim.blocks import gathered, with_blocks
from shim.outcomes import API_VERSION, KIND, About, clipped, quoted
from shim.pods import (
    FieldError,
    Json,
    NewPod,
    as_object,
    boolean,
    json_object,
    parse_pod,
    text,
)
from shim.port_names import names_of_one_socket
from shim.publishing import Publication, publications
from shim.sizes import FEW_COMMAS, too_large, too_many_ports
from shim.skim import SMALL, TooComplexError, skim, skim_outer

MIRROR = "kubernetes.io/config.mirror"
_PREFIXES = (BLOCK, PUBLISH)
_COUNT = '"count"'
"""Stands in a table of allocations in which a block is."""
POLICY_NAMES = {value: name.removeprefix("POLICY_") for name, value in Policy.items()}


class ReviewError(ValueError):
    """The caller's fault: the body is no AdmissionReview that we can answer."""


class PatchOptions(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What matters only when the patch is built."""

    settings: PodSettings = PodSettings()
    publications: tuple[Publication, ...] = ()
    warnings: tuple[PodWarning, ...] = ()


class NotOurs(msgspec.Struct, frozen=True, kw_only=True):
    """Allowed, untouched. `why` is for the log."""

    about: About
    why: str
    warnings: tuple[PodWarning, ...] = ()


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """The user's mistakes. `pod` is None where it is too large to be read.

    `probe` is a request whose refusal tells what else is wrong; None when none makes sense.

    `is_neutral` says that the probe's range and stride are not the user's, so that nothing about them counts.
    """

    about: About
    mistakes: tuple[Mistake, ...]
    pod: NewPod | None
    probe: AllocateRequest | None = None
    is_neutral: bool = False
    index_from: str = ""


class ToAllocate(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing wrong so far: the request for the allocator, and what the patch will be built from."""

    about: About
    request: AllocateRequest
    pod: NewPod
    options: PatchOptions
    index_from: str = ""  # the field that the index was read from
    patch_size: int = 0  # the bytes of the patch at most, roughly


def parse_review(body: bytes, *, own_network: bool = False) -> NotOurs | Denied | ToAllocate:
    """What is to be done about a review. `own_network`: whether a Pod that does not say keeps a network of its own.

    Raises:
        ReviewError: the body is not an AdmissionReview of admission.k8s.io/v1 with a Pod in it.

    """
    try:
        if len(body) <= SMALL:
            request = _request(_load(body, msgspec.json.decode))
            return _parse(request, own_network=own_network, is_counted=body.count(b",") <= FEW_COMMAS)
        request = _request(_load(body, skim_outer))
        return _left_alone(request) or _parse_large(request, body, own_network=own_network)
    except FieldError as error:
        raise ReviewError(f"the AdmissionReview is malformed: {error}") from error


def _parse_large(outer: Json, body: bytes, *, own_network: bool) -> NotOurs | Denied | ToAllocate:
    try:
        return _parse(_request(_load(body, skim)), own_network=own_network)
    except TooComplexError as error:
        return Denied(about=_about_large(outer), mistakes=error.mistakes, pod=None)


def _load(body: bytes, decode: Callable[[str], Any]) -> Any:
    try:
        return decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReviewError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise ReviewError("the body is nested too deeply") from error
    except msgspec.DecodeError as error:
        is_json = isinstance(error, msgspec.ValidationError) and decode is not msgspec.json.decode
        what = "the AdmissionReview is malformed" if is_json else "the body is not JSON"
        raise ReviewError(f"{what}: {error}") from error


def _request(body: Any) -> Json:
    review = as_object(body, "the body")
    found = (text(review, "apiVersion", ""), text(review, "kind", ""))
    if found != (API_VERSION, KIND):
        raise ReviewError(f"expected {KIND} of {API_VERSION}, got kind {quoted(found[1])} of {quoted(found[0])}")
    if review.get("request") is None:
        raise ReviewError("the AdmissionReview has no request")
    request = json_object(review, "request", "")
    if not 0 < len(text(request, "uid", "request")) <= LONGEST_ID:
        raise ReviewError(f"request.uid must have 1 to {LONGEST_ID} characters")
    return request


def _parse(request: Json, *, own_network: bool, is_counted: bool = False) -> NotOurs | Denied | ToAllocate:
    """`is_counted`: it is known that the Pod has not too much of anything."""
    left_alone = _left_alone(request)
    if left_alone is not None:
        return left_alone
    raw = json_object(request, "object", "request")
    wrong = () if is_counted else too_large(raw)
    if not wrong:
        pod = parse_pod(raw)
        if _COUNT in pod.annotations.get(ALLOCATIONS, ""):
            pod = gathered(pod)
        wrong = too_long(pod) if is_counted else (*too_long(pod), *too_many_ports(pod))
    if wrong:
        return Denied(about=_about_large(request), mistakes=wrong, pod=None)
    return _judge(request, pod, own_network=own_network)


def _left_alone(request: Json) -> NotOurs | None:
    """Why the Pod is none of ours; None where it asks for ports."""
    kind = json_object(request, "kind", "request")
    group, version = text(kind, "group", "request.kind"), text(kind, "version", "request.kind")
    why = ""
    if text(kind, "kind", "request.kind") != "Pod" or group or version != "v1":
        why = "not a Pod"
    if text(request, "subResource", "request"):
        why = "a subresource"
    if text(request, "operation", "request") != "CREATE":
        why = "not a CREATE"
    if why:
        return NotOurs(about=_about(request), why=why)
    if request.get("object") is None:
        raise ReviewError("the CREATE of a Pod has no request.object")
    raw = json_object(request, "object", "request")
    annotations = json_object(json_object(raw, "metadata", ""), "annotations", "metadata")
    if MIRROR in annotations:
        return NotOurs(about=_about(request), why="a mirror Pod")
    if annotations.get(ENABLED, "false") == "false":
        return NotOurs(about=_about(request), why=f"{ENABLED} is not true")
    return None


def _about_large(request: Json) -> About:
    """Whom a review is about whose Pod is too large to be read."""
    metadata = json_object(json_object(request, "object", "request"), "metadata", "")
    name = text(metadata, "name", "metadata") or f"{text(metadata, 'generateName', 'metadata')}*"
    return About(
        request_id=text(request, "uid", "request"),
        namespace=clipped(
            text(metadata, "namespace", "metadata") or text(request, "namespace", "request"), LONGEST_NAME
        ),
        name=clipped(name, LONGEST_NAME),
        is_dry_run=boolean(request, "dryRun", "request") is True,
    )


def _judge(request: Json, pod: NewPod, *, own_network: bool) -> NotOurs | Denied | ToAllocate:
    settings, mistakes = parse_settings(pod.annotations, own_network=own_network)
    warnings = tuple(doubts(pod.annotations, settings))
    about = _about(request, pod, settings)
    index, wrong_index, index_from = index_of(pod) if settings.policy in INDEXED else (None, (), "")
    named = [name for name in pod.annotations if name.startswith(_PREFIXES)] if pod.ports else ()
    wrong_blocks: tuple[Mistake, ...] = ()
    if named and any(name.startswith(BLOCK) for name in named):
        pod, wrong_blocks = with_blocks(pod, settings)
    wrong_names = names_of_one_socket(pod) if pod.has_groups else ()
    wrong_ports = (*wrong_blocks, *[each for port in pod.ports for each in port_mistakes(port)], *wrong_names)
    published, wrong_targets = publications(pod) if named else ((), ())
    mistakes = (*mistakes, *wrong_index, *wrong_ports, *wrong_targets, *wrong_network(pod, settings))
    if not mistakes and not pod.ports:
        why = "no container has a port, so there is nothing to allocate: the Pod is left untouched"
        return NotOurs(about=about, why="no ports", warnings=(PodWarning(Notice.NO_PORTS, why),))
    ask, patch_size = None, 0
    if pod.ports and settings.policy and not wrong_index and not wrong_ports:
        ask = allocation_request(about, pod, settings, index)
        patch_size, wrong_size = foretold_patch(pod, settings, len(published))
        excess = (*too_much(ask), *wrong_size)
        if excess:
            return Denied(about=about, mistakes=(*mistakes, *excess), pod=pod)
    if mistakes or ask is None:
        return _denied(about, pod, mistakes, ask, is_neutral=settings.numbers is None, index_from=index_from)
    options = PatchOptions(settings=settings, publications=published, warnings=warnings)
    return ToAllocate(about=about, request=ask, pod=pod, options=options, index_from=index_from, patch_size=patch_size)


def _denied(
    about: About,
    pod: NewPod,
    mistakes: tuple[Mistake, ...],
    ask: AllocateRequest | None,
    *,
    is_neutral: bool,
    index_from: str,
) -> Denied:
    if ask is not None:
        ask.dry_run = True
        ask.ClearField("request_id")
    return Denied(about=about, mistakes=mistakes, pod=pod, probe=ask, is_neutral=is_neutral, index_from=index_from)


def _about(request: Json, pod: NewPod | None = None, settings: PodSettings | None = None) -> About:
    uid = text(request, "uid", "request")
    if pod is None or settings is None:
        return About(request_id=uid)
    return About(
        request_id=uid,
        namespace=pod.namespace or text(request, "namespace", "request"),
        name=pod.name or f"{pod.generate_name}*",
        policy=POLICY_NAMES.get(settings.policy, "") if settings.policy is not None else "",
        is_dry_run=boolean(request, "dryRun", "request") is True,
    )
