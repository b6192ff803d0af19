"""What a Pod asks of the allocator, and what is wrong with the Pod before it asks. Pure.

Rules:

* The allocator decides: what a Pod asks for is written down as it stands.
* A source of the index that is there is the index, whatever it says.
* What is sent, kept or shown is not longer than Kubernetes has it, and all of the request is bounded.
* A patch is foretold from above. It is never larger than that, so that nothing is allocated for a Pod whose patch could
  not be sent.
* What does not go together with hostNetwork is named by the field that the user wrote. The API server would refuse such
  a Pod later, with words about a hostNetwork that nobody wrote; or would admit it, and it would break (a service mesh
  redirects the traffic of the whole node).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from hostport.contract import Mistake, Reason, defaults
from hostport.contract.limits import HIGHEST_PORT, LONGEST_ADDRESS, LONGEST_NAME, LOWEST_PORT, Bound
from hostport.contract.policies import DEFAULT_POLICY
from hostport.v1.allocator_pb2 import (
    POLICY_STATIC,
    PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    AllocateRequest,
    NodeConstraints,
    NodeRequirement,
    Protocol,
)
from shim.annotations import (
    ALLOCATED,
    ALLOCATION_ID,
    ENABLED,
    NETWORK,
    POLICIES,
    SEARCHED,
    PodSettings,
    not_a_number,
    out_of_range,
    parse_number,
)
from shim.findings import EACH
from shim.forbidden import ports_of_init_container, sysctls, windows
from shim.outcomes import About, quoted
from shim.pods import (
    FieldError,
    Json,
    NewPod,
    PodPort,
    boolean,
    integer,
    json_object,
    json_objects,
    text,
    text_map,
    texts,
    undeclared,
)
from shim.ports import brought, previewed
from shim.sizes import (
    AFFINITY,
    PROBE_BYTES,
    REMOVAL_BYTES,
    REQUIRED_AFFINITY,
    block_bytes,
    extra_bytes,
    patch_bytes,
    texts_of,
)

STEERED_BYTES = Bound.CONSTRAINTS.most + 1000
"""Of what keeps a Pod off nodes: the allocator writes no constraints that are larger than an ask may have."""

POD_INDEX = "apps.kubernetes.io/pod-index"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"

PROTOCOLS: dict[str, Protocol.ValueType] = {"TCP": PROTOCOL_TCP, "UDP": PROTOCOL_UDP, "SCTP": PROTOCOL_SCTP}
LONGEST_ID = 128
"""Characters of request_id and allocation_id, as the contract has it."""

MESH_CONTAINERS = frozenset({"istio-proxy", "istio-init"})


def index_of(pod: NewPod) -> tuple[int | None, tuple[Mistake, ...], str]:
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
            return *_read_index(where, value), where
    return None, (), ""


def _read_index(where: str, value: str) -> tuple[int | None, tuple[Mistake, ...]]:
    number = parse_number(value)
    if number is None:
        return None, (not_a_number(where, value),)
    if number > HIGHEST_PORT:  # min-port + index is beyond every port, and need not fit the contract's integer
        message = f"index {quoted(value)} is above {HIGHEST_PORT}: no port is left for it. Use policy Dynamic"
        return None, (Mistake(Reason.NUMBER_BEYOND_RANGE, where, message),)
    return number, ()


def port_mistakes(port: PodPort) -> list[Mistake]:
    """What is wrong with the numbers and the protocol of a port."""
    wrong = []
    if not LOWEST_PORT <= port.container_port <= HIGHEST_PORT:
        wrong.append(out_of_range(f"{port.path}.containerPort", port.container_port))
    if not 0 <= port.host_port <= HIGHEST_PORT:
        wrong.append(out_of_range(f"{port.path}.hostPort", port.host_port))
    if port.protocol not in PROTOCOLS:
        message = f"{quoted(port.protocol)} is none of {', '.join(PROTOCOLS)}"
        wrong.append(Mistake(Reason.UNKNOWN_VALUE, f"{port.path}.protocol", message))
    return wrong


def allocation_request(about: About, pod: NewPod, settings: PodSettings, index: int | None) -> AllocateRequest:
    """The request for a Pod with ports. A Pod that comes back in the same dry run keeps the numbers that it shows.

    Raises:
        FieldError: a field has an impossible type.

    """
    low, high, stride = settings.numbers or (LOWEST_PORT, HIGHEST_PORT, defaults.STRIDE)
    carried = pod.annotations.get(ALLOCATION_ID, "")
    request = AllocateRequest(
        request_id=about.request_id,
        dry_run=about.is_dry_run,
        policy=settings.policy or POLICIES[DEFAULT_POLICY],
        stride=stride,
        priority=_int32(pod.spec, "priority"),
        may_preempt=text(pod.spec, "preemptionPolicy", "spec") != "Never",
        when_full=settings.when_full,
        host_network=pod.host_network,
        allocation_id=carried if len(carried) <= LONGEST_ID else "",
    )
    # In place: a message that is made apart is copied into its parent.
    request.range.min, request.range.max = low, high
    owner = request.owner
    owner.kind, owner.namespace = "Pod", about.namespace
    owner.name, owner.generate_name = pod.name, pod.generate_name
    if (made_by := pod.controller) is not None:
        owner.controller_uid, controller = made_by.uid, request.controller
        controller.api_version, controller.kind, controller.name = made_by.api_version, made_by.kind, made_by.name
    _write_ports(pod, request, own_network=settings.own_network)
    if settings.cool_down is not None:
        request.cool_down.FromNanoseconds(round(settings.cool_down * 1e9))
    if request.policy in SEARCHED and not settings.own_network:
        request.avoid.extend(undeclared(pod))
    _write_constraints(pod, request.constraints)
    if index is not None:
        request.index = index
    if about.is_dry_run and previewed(pod, own_network=settings.own_network):
        _keep_as_it_stands(request, own_network=settings.own_network)
    return request


def _write_ports(pod: NewPod, into: AllocateRequest, *, own_network: bool) -> None:
    former = brought(pod) if own_network else {}
    for port in pod.ports:
        asked = into.ports.add()
        asked.container, asked.name, asked.protocol = port.container, port.name, PROTOCOLS[port.protocol]
        asked.container_port, asked.host_port, asked.host_ip = port.container_port, port.host_port, port.host_ip
        if port.count > 1:
            asked.count, asked.alignment = port.count, port.alignment
        if former:  # with hostNetwork the allocator sees it by itself: there hostPort is containerPort
            known = former.get((port.container, port.name, port.protocol, port.host_port))
            asked.former = known == port.container_port


def _keep_as_it_stands(request: AllocateRequest, *, own_network: bool) -> None:
    """What the allocator does by itself with a Pod that carries its own id."""
    request.policy = POLICY_STATIC
    for at in reversed(range(len(request.ports) if own_network else 0)):
        if not request.ports[at].host_port:
            del request.ports[at]  # it is on no host
    for port in request.ports:
        port.host_port = port.host_port or port.container_port


def _int32(spec: Json, key: str) -> int:
    value = integer(spec, key, "spec")
    if not -(2**31) <= value < 2**31:
        raise FieldError(f"spec.{key}", "a 32-bit integer", value)
    return value


def too_much(request: AllocateRequest) -> Iterator[Mistake]:
    """What the Pod says too much of: where it may run, and numbers that only probes name."""
    size = request.constraints.ByteSize()
    if size > Bound.CONSTRAINTS.most:
        yield Mistake(Reason.TOO_COMPLEX, "spec.affinity", Bound.CONSTRAINTS.told(size))
    count = len(request.avoid)
    if count > Bound.UNDECLARED.most:
        yield Mistake(Reason.TOO_COMPLEX, "spec.containers", Bound.UNDECLARED.told(count))


def _write_constraints(pod: NewPod, into: NodeConstraints) -> None:
    into.SetInParent()  # without any there are still constraints
    spec, into.node_name = pod.spec, pod.node_name
    if spec.get("nodeSelector") is not None:
        for key, value in text_map(spec, "nodeSelector", "spec").items():
            into.node_selector[key] = value
    if spec.get("affinity") is not None:
        affinity = json_object(json_object(spec, "affinity", "spec"), "nodeAffinity", "spec.affinity")
        required = json_object(affinity, REQUIRED_AFFINITY, "spec.affinity.nodeAffinity")
        for _, path, raw in json_objects(required, "nodeSelectorTerms", AFFINITY):
            term = into.required_affinity.add()
            _write_requirements(raw, "matchExpressions", path, term.match_expressions.add)
            _write_requirements(raw, "matchFields", path, term.match_fields.add)
    for _, path, raw in json_objects(spec, "tolerations", "spec"):
        each = into.tolerations.add()
        each.key, each.operator = text(raw, "key", path), text(raw, "operator", path)
        each.value, each.effect = text(raw, "value", path), text(raw, "effect", path)


def _write_requirements(term: Json, key: str, path: str, add: Callable[..., NodeRequirement]) -> None:
    for _, where, raw in json_objects(term, key, path):
        add(key=text(raw, "key", where), operator=text(raw, "operator", where), values=texts(raw, "values", where))


def too_long(pod: NewPod) -> tuple[Mistake, ...]:
    """Text that is sent, kept or shown, and is longer than Kubernetes has it."""
    wrong = [_long(field, name, LONGEST_NAME) for field, name in _names_of(pod) if len(name) > LONGEST_NAME]
    for container in pod.containers:
        if len(container.name) > LONGEST_NAME:
            wrong.append(_long(f"{container.path}.name", container.name, LONGEST_NAME))
        for port in container.all_ports:
            if len(port.name) > LONGEST_NAME:
                wrong.append(_long(f"{port.path}.name", port.name, LONGEST_NAME))
            if len(port.host_ip) > LONGEST_ADDRESS:
                wrong.append(_long(f"{port.path}.hostIP", port.host_ip, LONGEST_ADDRESS))
    return tuple(wrong)


def _names_of(pod: NewPod) -> Sequence[tuple[str, str]]:
    """The names of a Pod and of its controller, each with its field; none where all are short."""
    by, of_pod = pod.controller, (pod.name, pod.generate_name, pod.namespace, pod.node_name)
    of_controller = () if by is None else (by.api_version, by.kind, by.name, by.uid)
    if max(map(len, (*of_pod, *of_controller))) <= LONGEST_NAME:
        return ()
    fields = ("metadata.name", "metadata.generateName", "metadata.namespace", "spec.nodeName")
    more = () if by is None else [f"{by.path}.{field}" for field in ("apiVersion", "kind", "name", "uid")]
    return list(zip((*fields, *more), (*of_pod, *of_controller), strict=True))


def foretold_patch(pod: NewPod, settings: PodSettings, targets: int) -> tuple[int, tuple[Mistake, ...]]:
    """The bytes that a Pod's patch has at most, roughly, and what is wrong where that could be more than it may have.

    targets: how much is published.
    """
    rewrites = settings.rewrites and not settings.own_network
    characters = sum(len(text) + EACH for text in texts_of(pod)) if rewrites else 0
    if characters > Bound.TEXTS.most:
        return 0, (Mistake(Reason.TOO_COMPLEX, "spec.containers", Bound.TEXTS.told(characters)),)
    rough = rough_patch_bytes(pod, rewrites=rewrites, targets=targets)
    if rough <= Bound.PATCH.most:
        return rough, ()
    count = patch_bytes(pod, inject_env=settings.inject_env, rewrites=rewrites, targets=targets)
    if count <= Bound.PATCH.most:
        return rough, ()
    return rough, (Mistake(Reason.TOO_COMPLEX, "spec.containers", Bound.PATCH.told(count)),)


def rough_patch_bytes(pod: NewPod, *, rewrites: bool = False, targets: int = 0) -> int:
    """What `patch_bytes` says, or more, in a tenth of its time: nearly all Pods are far below the bound."""
    ports, containers = len(pod.ports) + 1, len(pod.containers) + 1
    letters = kept = numbers = 0
    for port in pod.ports:
        letters += len(port.name) + len(port.container)
        numbers += port.count
    for container in pod.containers:
        kept += len(container.probes) + len(container.env or ())
    stale = sum([len(name) for name in pod.annotations if name.startswith(ALLOCATED)])
    # A letter is three at most as a capital, and seven bytes at most as JSON within JSON; a port has two variables.
    size = 2000 + 1000 * ports * containers + 48 * letters * containers + PROBE_BYTES * kept + REMOVAL_BYTES * stale
    if numbers > len(pod.ports):
        size += block_bytes(pod.blocks, containers)
    return size + (extra_bytes(pod, rewrites=rewrites, targets=targets, is_rough=True) if rewrites or targets else 0)


def can_steer(pod: NewPod, patch_size: int) -> bool:
    """Whether a Pod can be kept off nodes: a scheduler is asked, and its affinity and its patch have room.

    patch_size: the bytes of the patch at most, as `foretold_patch` tells them.
    """
    affinity = (pod.spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get(REQUIRED_AFFINITY)
    if pod.node_name or (required is not None and not required.get("nodeSelectorTerms")):
        return False  # the API server refuses an affinity without terms
    return patch_size + STEERED_BYTES <= Bound.PATCH.most


def wrong_network(pod: NewPod, settings: PodSettings) -> Iterator[Mistake]:
    """What does not go with the network that a Pod with ports is to have. Raises FieldError where a type is wrong."""
    if pod.ports and not settings.own_network:
        remedy = f"remove {ENABLED}" if pod.host_network else f"set {NETWORK}: Pod"
        for field, why in _forbidden_by_host_network(pod):
            yield Mistake(Reason.HOST_NETWORK_FORBIDDEN, field, f"{why}. Remove it, or {remedy}")
    elif pod.ports and pod.host_network:
        why = f"true contradicts {NETWORK}: Pod. Remove it, or set {NETWORK}: Host"
        yield Mistake(Reason.NETWORK_MISMATCH, "spec.hostNetwork", why)


def _forbidden_by_host_network(pod: NewPod) -> Iterator[tuple[str, str]]:
    """Each field, and what is wrong with it."""
    spec = pod.spec
    if spec.get("hostUsers") is not None and boolean(spec, "hostUsers", "spec") is False:
        yield "spec.hostUsers", "false is not allowed with hostNetwork"
    if spec.get("hostnameOverride") is not None:
        yield "spec.hostnameOverride", "it is not allowed with hostNetwork"
    if spec.get("securityContext"):
        yield from sysctls(spec)
    if spec.get("os") or spec.get("nodeSelector"):
        yield from windows(spec)
    for container in pod.containers:
        if container.name in MESH_CONTAINERS:
            message = f"{container.name} works on the Pod's own network, which hostNetwork replaces by the node's"
            yield f"{container.path}.name", f'{message} (sidecar.istio.io/inject: "false" leaves it out)'
    for container in pod.containers:
        yield from () if container.is_counted else ports_of_init_container(container)


def _long(field: str, value: str, most: int) -> Mistake:
    return Mistake(Reason.INVALID_REQUEST, field, f"it has {len(value):,} characters, more than {most}")
