"""Large bodies are skimmed: only the fields that are looked at become objects. Pure.

A review of 3 MiB can hold a million lists, or numbers that take microseconds each: to make objects of all of them takes
up to a second, in which nobody is answered. To pass over them takes milliseconds.

Longer than 350 lines because it is one schema: a class for each object of a review.

Rules:

* What comes out is what `msgspec.json.decode` makes of the body, less the fields that nobody reads.
* What is counted is counted before objects are made of it: braces, and the entries of maps.
* Numbers stay text until their count is known, since one of 4,300 digits takes as long as a thousand others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from hostport.contract import Mistake, Reason
from hostport.contract.limits import Bound
from shim.ports import VARIABLE_PREFIX
from shim.sizes import too_large

SMALL = 64 << 10
"""Bytes up to which a body is read whole: whatever it says, that takes less than 25 ms."""

LONGEST_READ = 64
"""Bytes of a number that are read. What is longer is no port, and comes out as text."""

ANNOTATIONS = "metadata.annotations"
"""What stands where the downward API reads one."""

Unread = msgspec.Raw | msgspec.UnsetType


class TooComplexError(ValueError):
    """The user's fault: there is more of something than may be. `skim_outer` tells whose review it is."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


class _Fields(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Some fields of an object; null is absent."""

    def get(self, key: str) -> Any:
        """The value at a key, as of the object."""
        return getattr(self, _ATTRIBUTES.get(key, ""), None)


class _Handler(_Fields):
    port: Unread = msgspec.UNSET
    host: str | None = None
    command: Unread = msgspec.UNSET


class _Probe(_Fields):
    exec: _Handler | None = None
    http_get: _Handler | None = None
    tcp_socket: _Handler | None = None
    grpc: _Handler | None = None


class _Lifecycle(_Fields):
    post_start: _Probe | None = None
    pre_stop: _Probe | None = None


class _Port(_Fields):
    name: str | None = None
    protocol: str | None = None
    container_port: Unread = msgspec.UNSET
    host_port: Unread = msgspec.UNSET
    host_ip: str | None = msgspec.field(default=None, name="hostIP")


class _FieldRef(_Fields):
    api_version: str | None = None
    field_path: str | None = None


class _Source(_Fields):
    field_ref: _FieldRef | None = None


class _Variable(_Fields):
    name: str | None = None
    value: str | None = None
    value_from: Unread = msgspec.UNSET


class _Container(_Fields):
    name: str | None = None
    restart_policy: str | None = None
    command: Unread = msgspec.UNSET
    args: Unread = msgspec.UNSET
    ports: list[_Port] | None = None
    env: list[_Variable] | None = None
    liveness_probe: _Probe | None = None
    readiness_probe: _Probe | None = None
    startup_probe: _Probe | None = None
    lifecycle: _Lifecycle | None = None


class _Requirement(_Fields):
    key: str | None = None
    operator: str | None = None
    values: list[str] | None = None


class _Term(_Fields):
    match_expressions: list[_Requirement] | None = None
    match_fields: list[_Requirement] | None = None


class _Selector(_Fields):
    node_selector_terms: list[_Term] | None = None


class _NodeAffinity(_Fields):
    required: _Selector | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")


class _Affinity(_Fields):
    node_affinity: _NodeAffinity | None = None


class _Toleration(_Fields):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None


class _Named(_Fields):
    name: str | None = None


class _Security(_Fields):
    sysctls: list[_Named] | None = None


class _Spec(_Fields):
    node_name: str | None = None
    node_selector: Unread = msgspec.UNSET
    affinity: _Affinity | None = None
    tolerations: list[_Toleration] | None = None
    host_network: bool | None = None
    host_users: bool | None = None
    hostname_override: str | None = None
    dns_policy: str | None = None
    priority: int | None = None
    preemption_policy: str | None = None
    security_context: _Security | None = None
    os: _Named | None = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    volumes: Unread = msgspec.UNSET


class _Owner(_Fields):
    controller: bool | None = None
    api_version: str | None = None
    kind: str | None = None
    name: str | None = None
    uid: str | None = None


class _Manager(_Fields):
    operation: str | None = None


class _Metadata(_Fields):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: Unread = msgspec.UNSET
    annotations: Unread = msgspec.UNSET
    owner_references: list[_Owner] | None = None
    managed_fields: list[_Manager] | None = None


class _Pod(_Fields):
    metadata: _Metadata | None = None
    spec: _Spec | None = None


class _Kind(_Fields):
    group: str | None = None
    version: str | None = None
    kind: str | None = None


class _AnyRequest(_Fields):
    uid: str | None = None
    kind: _Kind | None = None
    operation: str | None = None
    sub_resource: str | None = None
    namespace: str | None = None
    dry_run: bool | None = None


class _Request(_AnyRequest):
    object: _Pod | None = None


class _Review(_Fields):
    api_version: str | None = None
    kind: str | None = None
    request: _Request | None = None


_COUNTED = (_Pod, _Metadata, _Spec, _Container, _Port, _Owner, _Security, _Probe, _Affinity, _NodeAffinity, _Selector,
            _Term, _Requirement)  # fmt: skip
_ATTRIBUTES = {
    name: attribute
    for each in _COUNTED
    for attribute, name in zip(each.__struct_fields__, each.__struct_encode_fields__, strict=True)
}


class _Wants(_Fields):
    """Whether somebody asks for ports: the first thing that is known of a Pod."""

    enabled: str | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="hostport.io/enabled")
    mirror: str | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="kubernetes.io/config.mirror")


class _OuterMetadata(_Fields):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    annotations: _Wants | None = None


class _OuterPod(_Fields):
    metadata: _OuterMetadata | None = None


class _OuterRequest(_AnyRequest):
    object: _OuterPod | None = None


class _OuterReview(_Fields):
    api_version: str | None = None
    kind: str | None = None
    request: _OuterRequest | None = None


_decode_outer = msgspec.json.Decoder(_OuterReview).decode
_decode = msgspec.json.Decoder(_Review).decode
_decode_map = msgspec.json.Decoder(dict[str, str | None] | None).decode
_decode_texts = msgspec.json.Decoder(list[str] | None).decode
_decode_source = msgspec.json.Decoder(_Source | None).decode


def skim_outer(body: str) -> dict[str, Any]:
    """Whose review it is, and whether its Pod asks for ports.

    Raises:
        msgspec.DecodeError, RecursionError: it is none.

    """
    outer: dict[str, Any] = msgspec.to_builtins(_decode_outer(body))
    return outer


def skim(body: str) -> dict[str, Any]:
    """The fields of a review that are looked at.

    Raises:
        TooComplexError: its Pod has more of something than may be.
        msgspec.DecodeError, RecursionError: it is no review.

    """
    objects = body.count("{")
    if objects > Bound.OBJECTS.most:
        raise TooComplexError(_too_complex("", Bound.OBJECTS, objects))
    review = _decode(body)
    pod = review.request.object if review.request else None
    if pod is not None:
        _read_maps(pod)
        wrong = too_large(pod)
        if wrong:
            raise TooComplexError(*wrong)
        containers = (*(pod.spec.containers or ()), *(pod.spec.init_containers or ())) if pod.spec else ()
        _read_commands(containers)
        for container in containers:
            for variable in container.env or ():
                variable.value_from = _value_source(variable)
    plain: dict[str, Any] = msgspec.to_builtins(review, enc_hook=_short)
    return plain


def _read_commands(containers: Iterable[_Container]) -> None:
    """What is run: as few objects as there are bytes for."""
    left = Bound.COMMANDS.most
    for container in containers:
        asking: list[_Probe | None] = [container.liveness_probe, container.readiness_probe, container.startup_probe]
        if container.lifecycle is not None:
            asking += [container.lifecycle.post_start, container.lifecycle.pre_stop]
        runs = [each.exec for each in asking if each is not None and each.exec is not None]
        for holder, field in ((container, "command"), (container, "args"), *((each, "command") for each in runs)):
            raw = getattr(holder, field)
            if raw is not msgspec.UNSET:
                left -= len(bytes(raw))
                if left < 0:
                    raise TooComplexError(_too_complex("spec.containers", Bound.COMMANDS, Bound.COMMANDS.most - left))
                setattr(holder, field, _decode_texts(raw))


def _read_maps(pod: _Pod) -> None:
    if pod.metadata is not None:
        pod.metadata.labels = _text_map(pod.metadata.labels, "metadata.labels", Bound.LABELS)
        pod.metadata.annotations = _text_map(pod.metadata.annotations, "metadata.annotations", Bound.ANNOTATIONS)
    if pod.spec is not None:
        raw = pod.spec.volumes
        # All that matters is whether a volume reads annotations.
        is_reader = raw is not msgspec.UNSET and ANNOTATIONS.encode() in bytes(cast("Any", raw))
        pod.spec.volumes = cast("Any", [ANNOTATIONS]) if is_reader else msgspec.UNSET
        pod.spec.node_selector = _text_map(pod.spec.node_selector, "spec.nodeSelector", Bound.SELECTOR)


def _text_map(raw: Any, field: str, bound: Bound) -> Any:
    """A map of text, or None.

    Every entry begins with a quotation mark that no backslash stands before, and so does its value.
    """
    text = b"null" if raw is msgspec.UNSET else bytes(raw)
    marks = text.count(b'"') - text.count(b'\\"')
    if marks > 4 * bound.most:
        raise TooComplexError(_too_complex(field, bound, marks // 4))
    return _decode_map(text)


def _too_complex(field: str, bound: Bound, count: int) -> Mistake:
    return Mistake(Reason.TOO_COMPLEX, field, bound.told(count))


def _value_source(variable: _Variable) -> Any:
    """Where a variable has its value from, as far as that matters: ours, and what is a field of the Pod."""
    raw = variable.value_from
    if raw is msgspec.UNSET:
        return msgspec.UNSET
    is_unread = bytes(raw).startswith(b"{") and b"fieldRef" not in bytes(raw)
    if is_unread and not (variable.name or "").startswith(VARIABLE_PREFIX):
        return msgspec.UNSET
    source = _decode_source(raw)
    is_other = source is not None and source.field_ref is None and bytes(raw).strip(b"{} \t\r\n")
    return {"other": {}} if is_other else source


def _short(raw: Any) -> Any:
    """A number, or what stands in its place."""
    text = bytes(raw)
    return msgspec.json.decode(text) if len(text) <= LONGEST_READ else text[:LONGEST_READ].decode(errors="replace")
