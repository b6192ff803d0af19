"""From the bytes of an AdmissionReview to what is to be done about it. Pure.

Rules:

* The body is parsed once, here. Two ways to fail: `ReviewError` is the caller's fault (HTTP 400, so that failurePolicy
  decides); `Denied` is the user's (an answer, with every mistake that was found).
* Whoever does not ask for ports is left alone: nothing but the one annotation is looked at before that is known.
* The allocator decides; this module asks. It denies only what the allocator cannot see: annotations, and fields that
  Kubernetes refuses together with hostNetwork.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from hostport.bounds import LONGEST_NAME, Bound
from hostport.contract import Notice, Reason
from hostport.v1.allocator_pb2 import (
    POLICY_DYNAMIC,
    POLICY_INDEX,
    POLICY_STATIC,
    PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    AllocateRequest,
    Owner,
    Policy,
    Protocol,
)
from shim.constraints import write_constraints
from shim.fields import FieldError, Json, as_object, boolean, integer, json_object, text
from shim.forbidden import forbidden_by_host_network
from shim.outcomes import About, Mistake, Remark, clipped, mistake, quoted, remark
from shim.pods import Pod, Port, parse_pod, undeclared
from shim.preview import brought, previewed
from shim.publishing import Publication, publications
from shim.settings import (
    ALLOCATION_ID,
    DEFAULT_STRIDE,
    ENABLED,
    HIGHEST,
    LOWEST,
    NETWORK,
    RANGED,
    Settings,
    doubts,
    not_a_number,
    out_of_range,
    parse_number,
    parse_settings,
)
from shim.size import FEW_COMMAS, too_large, too_large_a_patch, too_long
from shim.skim import SMALL, TooComplexError, skim, skim_outer

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"
MIRROR = "kubernetes.io/config.mirror"
POD_INDEX = "apps.kubernetes.io/pod-index"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"

PROTOCOLS: dict[str, Protocol.ValueType] = {"TCP": PROTOCOL_TCP, "UDP": PROTOCOL_UDP, "SCTP": PROTOCOL_SCTP}
POLICY_NAMES = {value: name.removeprefix("POLICY_") for name, value in Policy.items()}
LONGEST_ID = 128
"""Characters of request_id and allocation_id, as the contract has it."""


class ReviewError(ValueError):
    """The caller's fault: the body is no AdmissionReview that we can answer."""


class Options(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the user said that matters only when the patch is built. `range` bounds Index and Dynamic alone."""

    keep_dns: bool = False
    inject_env: bool = True
    range: tuple[int, int] | None = None
    own_network: bool = False
    rewrites: bool = False
    publications: tuple[Publication, ...] = ()
    remarks: tuple[Remark, ...] = ()


class NotOurs(msgspec.Struct, frozen=True, kw_only=True):
    """Allowed, untouched. `why` is for the log."""

    about: About
    why: str
    warnings: tuple[Remark, ...] = ()


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """The user's mistakes. `pod` is None where it is too large to be read.

    `probe` is a request whose refusal tells what else is wrong; None when none makes sense.

    `is_neutral` says that the probe's range and stride are not the user's, so that nothing about them counts.
    """

    about: About
    mistakes: tuple[Mistake, ...]
    pod: Pod | None
    probe: AllocateRequest | None = None
    is_neutral: bool = False
    index_from: str = ""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing wrong so far: the request for the allocator, and what the patch will be built from."""

    about: About
    request: AllocateRequest
    pod: Pod
    options: Options
    index_from: str = ""  # the field that the index was read from


def parse_review(body: bytes, *, own_network: bool = False) -> NotOurs | Denied | Ask:
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


def _parse_large(outer: Json, body: bytes, *, own_network: bool) -> NotOurs | Denied | Ask:
    try:
        return _parse(_request(_load(body, skim)), own_network=own_network)
    except TooComplexError as error:
        return Denied(about=_about_large(outer), mistakes=error.mistakes, pod=None)


def _load(body: bytes, decode: Callable[[str], Any]) -> Json:
    try:
        review = decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReviewError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise ReviewError("the body is nested too deeply") from error
    except msgspec.DecodeError as error:
        is_json = isinstance(error, msgspec.ValidationError) and decode is not msgspec.json.decode
        what = "the AdmissionReview is malformed" if is_json else "the body is not JSON"
        raise ReviewError(f"{what}: {error}") from error
    return as_object(review, "the body")


def _request(review: Json) -> Json:
    found = (text(review, "apiVersion", ""), text(review, "kind", ""))
    if found != (API_VERSION, KIND):
        raise ReviewError(f"expected {KIND} of {API_VERSION}, got kind {quoted(found[1])} of {quoted(found[0])}")
    if review.get("request") is None:
        raise ReviewError("the AdmissionReview has no request")
    request = json_object(review, "request", "")
    if not 0 < len(text(request, "uid", "request")) <= LONGEST_ID:
        raise ReviewError(f"request.uid must have 1 to {LONGEST_ID} characters")
    return request


def _parse(request: Json, *, own_network: bool, is_counted: bool = False) -> NotOurs | Denied | Ask:
    """`is_counted`: it is known that the Pod has not too much of anything."""
    left_alone = _left_alone(request)
    if left_alone is not None:
        return left_alone
    raw = json_object(request, "object", "request")
    wrong = () if is_counted else too_large(raw)
    if not wrong:
        pod = parse_pod(raw)
        wrong = too_long(pod)
    if wrong:
        return Denied(about=_about_large(request), mistakes=wrong, pod=None)
    return _judge(request, pod, own_network=own_network)


def _left_alone(request: Json) -> NotOurs | None:
    """Why the Pod is none of ours; None where it asks for ports."""
    why = _not_a_pod_create(request)
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


def _not_a_pod_create(request: Json) -> str:
    kind = json_object(request, "kind", "request")
    what = [text(kind, part, "request.kind") for part in ("group", "version", "kind")]
    if text(request, "operation", "request") != "CREATE":
        return "not a CREATE"
    if text(request, "subResource", "request"):
        return "a subresource"
    return "" if what == ["", "v1", "Pod"] else "not a Pod"


def _judge(request: Json, pod: Pod, *, own_network: bool) -> NotOurs | Denied | Ask:
    settings, mistakes = parse_settings(pod.annotations, own_network=own_network)
    about = _about(request, pod, settings)
    index, wrong_index, index_from = _index(pod) if settings.policy == POLICY_INDEX else (None, (), "")
    wrong_ports = tuple(each for port in pod.ports for each in _port_mistakes(port))
    published, wrong_targets = publications(pod) if pod.ports else ((), ())
    mistakes = (*mistakes, *wrong_index, *wrong_ports, *wrong_targets, *_wrong_network(pod, settings))
    if not mistakes and not pod.ports:
        why = "no container has a port, so there is nothing to allocate: the Pod is left untouched"
        return NotOurs(about=about, why="no ports", warnings=(remark(Notice.NO_PORTS, why),))
    ask = None
    if pod.ports and settings.policy and not wrong_index and not wrong_ports:
        ask = _allocate_request(request=request, pod=pod, settings=settings, index=index)
        if ask.dry_run and previewed(pod, own_network=settings.own_network):
            _keep_as_it_stands(ask, own_network=settings.own_network)
        too_much = (*_too_wide(ask), *_too_many_named(ask), *too_large_a_patch(pod, settings, len(published)))
        if too_much:
            return Denied(about=about, mistakes=(*mistakes, *too_much), pod=pod)
    if mistakes or ask is None:
        denied = _denied(about, pod, mistakes, ask, is_neutral=settings.numbers is None)
        return replace(denied, index_from=index_from)
    options = _options(settings, published, tuple(doubts(pod.annotations, settings)))
    return Ask(about=about, request=ask, pod=pod, options=options, index_from=index_from)


def _wrong_network(pod: Pod, settings: Settings) -> Iterator[Mistake]:
    """What does not go with the network that the Pod is to have."""
    if not pod.ports:
        return
    if not settings.own_network:
        yield from forbidden_by_host_network(pod)
    elif pod.host_network:
        why = f"true contradicts {NETWORK}: Pod. Remove it, or set {NETWORK}: Host"
        yield mistake(Reason.NETWORK_MISMATCH, "spec.hostNetwork", why)


def _too_many_named(ask: AllocateRequest) -> tuple[Mistake, ...]:
    """What is wrong where probes name more numbers than may be kept from the Pod."""
    count = len(ask.avoid)
    if count <= Bound.UNDECLARED.most:
        return ()
    return (mistake(Reason.TOO_COMPLEX, "spec.containers", Bound.UNDECLARED.told(count)),)


def _too_wide(ask: AllocateRequest) -> tuple[Mistake, ...]:
    """What is wrong where the Pod says too much of where it may run. All of it is sent and kept."""
    size = ask.constraints.ByteSize()
    if size <= Bound.CONSTRAINTS.most:
        return ()
    return (mistake(Reason.TOO_COMPLEX, "spec.affinity", Bound.CONSTRAINTS.told(size)),)


def _denied(
    about: About, pod: Pod, mistakes: tuple[Mistake, ...], ask: AllocateRequest | None, *, is_neutral: bool
) -> Denied:
    if ask is not None:
        ask.dry_run = True
        ask.ClearField("request_id")
    return Denied(about=about, mistakes=mistakes, pod=pod, probe=ask, is_neutral=is_neutral)


def _about(request: Json, pod: Pod | None = None, settings: Settings | None = None) -> About:
    uid = text(request, "uid", "request")
    if pod is None or settings is None:
        return About(request_id=uid)
    return About(
        request_id=uid,
        namespace=_namespace(request, pod),
        name=pod.name or f"{pod.generate_name}*",
        policy=POLICY_NAMES.get(settings.policy, "") if settings.policy is not None else "",
        is_dry_run=boolean(request, "dryRun", "request") is True,
    )


def _namespace(request: Json, pod: Pod) -> str:
    return pod.namespace or text(request, "namespace", "request")


def _options(settings: Settings, published: tuple[Publication, ...], remarks: tuple[Remark, ...]) -> Options:
    return Options(
        own_network=settings.own_network,
        rewrites=settings.rewrites,
        publications=published,
        remarks=remarks,
        keep_dns=settings.keep_dns,
        inject_env=settings.inject_env,
        range=settings.numbers[:2] if settings.numbers and settings.policy in RANGED else None,
    )


def _index(pod: Pod) -> tuple[int | None, tuple[Mistake, ...], str]:
    """The Pod's index, its source's mistake, and the source. A source that is there is it, whatever it says."""
    named = re.search(r"-([0-9]+)\Z", pod.name)
    sources = (
        (f"label {POD_INDEX}", pod.labels.get(POD_INDEX)),
        (f"annotation {COMPLETION_INDEX}", pod.annotations.get(COMPLETION_INDEX)),
        (f"label {COMPLETION_INDEX}", pod.labels.get(COMPLETION_INDEX)),
        ("metadata.name", named[1] if named else None),
    )
    for where, value in sources:
        if value is not None:
            return *_index_of(where, value), where
    return None, (), ""


def _index_of(where: str, value: str) -> tuple[int | None, tuple[Mistake, ...]]:
    number = parse_number(value)
    if number is None:
        return None, (not_a_number(where, value),)
    if number > HIGHEST:  # min-port + index is beyond every port, and need not fit the contract's integer
        message = f"index {quoted(value)} is above {HIGHEST}: no port is left for it. Use policy Dynamic"
        return None, (mistake(Reason.NUMBER_BEYOND_RANGE, where, message),)
    return number, ()


def _port_mistakes(port: Port) -> list[Mistake]:
    wrong = []
    if not LOWEST <= port.container_port <= HIGHEST:
        wrong.append(out_of_range(f"{port.path}.containerPort", port.container_port))
    if not 0 <= port.host_port <= HIGHEST:
        wrong.append(out_of_range(f"{port.path}.hostPort", port.host_port))
    if port.protocol not in PROTOCOLS:
        message = f"{quoted(port.protocol)} is none of {', '.join(PROTOCOLS)}"
        wrong.append(mistake(Reason.UNKNOWN_VALUE, f"{port.path}.protocol", message))
    return wrong


def _allocate_request(*, request: Json, pod: Pod, settings: Settings, index: int | None) -> AllocateRequest:
    low, high, stride = settings.numbers or (LOWEST, HIGHEST, DEFAULT_STRIDE)
    carried = pod.annotations.get(ALLOCATION_ID, "")
    ask = AllocateRequest(
        request_id=text(request, "uid", "request"),
        dry_run=boolean(request, "dryRun", "request") is True,
        policy=settings.policy or POLICY_INDEX,
        stride=stride,
        priority=_int32(pod.spec, "priority"),
        may_preempt=text(pod.spec, "preemptionPolicy", "spec") != "Never",
        when_full=settings.when_full,
        host_network=pod.host_network,
        allocation_id=carried if len(carried) <= LONGEST_ID else "",
    )
    # In place: a message that is made apart is copied into its parent.
    ask.range.min, ask.range.max = low, high
    _write_owner(request, pod, ask.owner)
    former = brought(pod) if settings.own_network else {}
    for port in pod.ports:
        # With hostNetwork the allocator sees it by itself: there hostPort is containerPort.
        is_former = former.get((port.container, port.name, port.protocol, port.host_port)) == port.container_port
        ask.ports.add(
            former=is_former,
            container=port.container,
            name=port.name,
            protocol=PROTOCOLS[port.protocol],
            container_port=port.container_port,
            host_port=port.host_port,
            host_ip=port.host_ip,
        )
    if ask.policy == POLICY_DYNAMIC and not settings.own_network:
        ask.avoid.extend(undeclared(pod))
    ask.constraints.SetInParent()
    write_constraints(pod.spec, ask.constraints)
    if index is not None:
        ask.index = index
    if (made_by := pod.controller) is not None:
        ask.controller.api_version, ask.controller.kind = made_by.api_version, made_by.kind
        ask.controller.name = made_by.name
    return ask


def _keep_as_it_stands(ask: AllocateRequest, *, own_network: bool) -> None:
    """What the allocator does by itself with a Pod that carries its own id."""
    ask.policy = POLICY_STATIC
    for at in reversed(range(len(ask.ports) if own_network else 0)):
        if not ask.ports[at].host_port:
            del ask.ports[at]  # it is on no host
    for port in ask.ports:
        port.host_port = port.host_port or port.container_port


def _write_owner(request: Json, pod: Pod, into: Owner) -> None:
    into.kind = "Pod"
    into.namespace = _namespace(request, pod)
    into.name = pod.name
    into.generate_name = pod.generate_name
    into.controller_uid = pod.controller.uid if pod.controller else ""


def _int32(spec: Json, key: str) -> int:
    value = integer(spec, key, "spec")
    if not -(2**31) <= value < 2**31:
        raise FieldError(f"spec.{key}", "a 32-bit integer", value)
    return value
