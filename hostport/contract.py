"""The words of the contract: why a request was refused, and what people are warned of.

Rules:

* One word for one thing. A member's name is the `ErrorInfo.reason` on the wire, the `status.reason` of the admission
  answer and the label in logs and metrics.
* The table in docs/contract.md is rendered from this module (`python -m hostport.contract`); a check keeps them equal.
* This module is pure data: both programs import it, and so may any caller.
"""

from __future__ import annotations

from enum import Enum

DOMAIN = "hostport.io"
"""`ErrorInfo.domain` of every error."""


class Code(Enum):
    """The canonical gRPC codes that we use, with their numbers.

    In the shim's admission answer 422 and 403 stand in `response.status.code` of an answer with HTTP status 200 and
    `allowed: false`; 503 is the HTTP status itself, so that the webhook's `failurePolicy` decides. 409 is avoided:
    `kubectl apply --server-side` then talks of field managers.
    """

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    @property
    def admission_status(self) -> int:
        """HTTP status that an admission answer gives for this code: 422, 403 or 503."""
        if self is Code.INVALID_ARGUMENT:
            return 422
        return 403 if self in {Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED} else 503


class Reason(Enum):
    """Why a request was refused: (code, condition, what the caller should do)."""

    # -- the user's annotations (the shim)
    ENABLED_VALUE = (
        Code.INVALID_ARGUMENT,
        "`hostport.io/enabled` is neither `true` nor `false`",
        'Write `"true"` or `"false"`, in lower case and in quotes.',
    )
    UNKNOWN_POLICY = (
        Code.INVALID_ARGUMENT,
        "The policy is none of `Index`, `Dynamic`, `Passthrough`, `Static`",
        "Write one of them exactly; the message names the nearest.",
    )
    UNKNOWN_VALUE = (
        Code.INVALID_ARGUMENT,
        "An annotation or field has a value outside its short list",
        "Use one of the values that the message names.",
    )
    NOT_A_NUMBER = (
        Code.INVALID_ARGUMENT,
        "An annotation that takes a number has something else",
        'Write decimal digits in quotes, such as `"10000"`.',
    )
    HOST_NETWORK_FORBIDDEN = (
        Code.INVALID_ARGUMENT,
        "The Pod has a field that Kubernetes refuses together with hostNetwork, or that breaks with it",
        "Remove the field that the message names, or remove `hostport.io/enabled`.",
    )
    NETWORK_MISMATCH = (
        Code.INVALID_ARGUMENT,
        "`hostport.io/network` is `Pod`, and the Pod has `hostNetwork: true`",
        "Remove `hostNetwork`, or set `hostport.io/network` to `Host`.",
    )
    PUBLISH_INVALID = (
        Code.INVALID_ARGUMENT,
        "A `hostport.io/publish-<port>` names no port of the Pod, or a target that is none or that others act on",
        "Name a port, and `env:NAME`, `annotation:KEY` or `label:KEY` with a key of your own domain.",
    )
    # -- the request (shim and allocator)
    NUMBER_OUT_OF_RANGE = (
        Code.INVALID_ARGUMENT,
        "A port, bound or stride is not in 1..65535",
        "Use a number in 1..65535.",
    )
    INVALID_REQUEST = (
        Code.INVALID_ARGUMENT,
        "A field is missing, too long or malformed",
        "Correct the field that the message names; do not retry unchanged.",
    )
    NO_PORTS = (
        Code.INVALID_ARGUMENT,
        "The request asks for no port",
        "Ask for at least one port.",
    )
    TOO_MANY_PORTS = (
        Code.INVALID_ARGUMENT,
        "The request asks for more than 512 ports",
        "Split the owner, or ask for fewer ports.",
    )
    TOO_COMPLEX = (
        Code.INVALID_ARGUMENT,
        "One ask has so many terms, values, tolerations, containers or variables that others would wait for it",
        "Make smaller what the message names, with its count and its bound; do not retry unchanged.",
    )
    RANGE_INVERTED = (
        Code.INVALID_ARGUMENT,
        "min-port is greater than max-port",
        "Swap them, or set both: min-port alone is 7000, max-port alone follows min-port.",
    )
    NO_INDEX = (
        Code.INVALID_ARGUMENT,
        "Policy `Index` without an index",
        "Use a StatefulSet, an Indexed Job or a Pod name that ends in -<number>; else policy `Dynamic`.",
    )
    INDEX_EXCEEDS_STRIDE = (
        Code.INVALID_ARGUMENT,
        "Policy `Index` with several port groups and an index that is not below the stride",
        "Raise the stride above the highest index.",
    )
    NUMBER_BEYOND_RANGE = (
        Code.INVALID_ARGUMENT,
        "Policy `Index` computes a number above max-port or 65535",
        "Raise max-port, lower min-port or stride, or run fewer replicas.",
    )
    OWN_PORTS_COLLIDE = (
        Code.INVALID_ARGUMENT,
        "Two ports of one request would get the same number, protocol and address",
        "Give them different numbers, or use policy `Dynamic`.",
    )
    HOST_PORT_MISSING = (
        Code.INVALID_ARGUMENT,
        "Policy `Static` on a port without a hostPort",
        "Set hostPort on every port, or use another policy.",
    )
    CONTAINER_PORT_MISSING = (
        Code.INVALID_ARGUMENT,
        "Policy `Passthrough` on a port without a containerPort",
        "Set the containerPort.",
    )
    PORT_RESERVED = (
        Code.INVALID_ARGUMENT,
        "Policy `Index` computes a number that the operator reserves (`--reserved-ports`), or a lease names one",
        "Move min-port, or lease another number; a Pod's `Static` and `Passthrough` may name a reserved one.",
    )
    RANGE_RESERVED = (
        Code.INVALID_ARGUMENT,
        "Policy `Dynamic` over a range in which every number is reserved (`--reserved-ports`)",
        "Choose another range.",
    )
    INVALID_TTL = (
        Code.INVALID_ARGUMENT,
        "The time to live is negative, zero or more than 30 days, or was set for a Pod",
        "Send 1 s to 30 days, or leave it unset for 1 hour; Pods have none.",
    )
    NAMESPACE_NOT_FOUND = (
        Code.INVALID_ARGUMENT,
        "A lease is asked for an owner whose namespace does not exist, or is being deleted",
        "Create the namespace, or name another.",
    )
    REQUEST_ID_REUSED = (
        Code.INVALID_ARGUMENT,
        "The request_id was used before with another request",
        "Use a fresh request_id for every new request, the old one only to repeat it.",
    )
    INVALID_PAGE = (
        Code.INVALID_ARGUMENT,
        "page_token is not one that we gave, or page_size is negative",
        "Start again without page_token.",
    )
    # -- the state of the world
    PORT_CONFLICT = (
        Code.FAILED_PRECONDITION,
        "A fixed number is taken on every node where the owner may run",
        "Choose another number, free the holder that the message names, or add nodes.",
    )
    HELD_BY_LEASE = (
        Code.FAILED_PRECONDITION,
        "A fixed number is leased on a node where the Pod may run (the scheduler does not know leases)",
        "Choose another number, keep the Pod off that node, or end the lease that the message names.",
    )
    RANGE_EXHAUSTED = (
        Code.RESOURCE_EXHAUSTED,
        "Policy `Dynamic` finds no number of the range for the owner",
        "Widen the range, free ports, or add nodes.",
    )
    WATCH_BEHIND = (
        Code.RESOURCE_EXHAUSTED,
        "A watcher did not read its events in time, so that some were dropped",
        "Watch again: a new watch begins with a snapshot.",
    )
    STREAM_UNREAD = (
        Code.RESOURCE_EXHAUSTED,
        "The answers of an AllocateStream were not read in time",
        "Open another stream, and ask again with the same request_ids what was not answered.",
    )
    UNCONFIRMED_BACKLOG = (
        Code.RESOURCE_EXHAUSTED,
        "Pods of this owner were admitted here and never appeared",
        "Look for what refuses them after admission: a quota, Pod Security, another webhook. Then wait.",
    )
    NAMESPACE_BACKLOG = (
        Code.RESOURCE_EXHAUSTED,
        "As many Pods of this namespace as may (`--namespace-reservations`) were admitted here and did not appear",
        "Look for what refuses them after admission: a quota, Pod Security, another webhook. Or raise the bound.",
    )
    TOO_MANY_LEASES = (
        Code.RESOURCE_EXHAUSTED,
        "The namespace leases as many ports as it may (`--namespace-leases`)",
        "Release leases that nobody uses, or raise the bound.",
    )
    LEASE_QUOTA = (
        Code.RESOURCE_EXHAUSTED,
        "A ResourceQuota of the owner's namespace has no room for the PortLease of another lease",
        "Release leases that nobody uses, or have the quota raised.",
    )
    LEASE_FORBIDDEN = (
        Code.FAILED_PRECONDITION,
        "The cluster takes no such PortLease: an admission policy or webhook, or its schema, says no",
        "Ask for what the message names; to repeat the same request is in vain.",
    )
    ALLOCATION_NOT_FOUND = (
        Code.NOT_FOUND,
        "No live allocation has this id, or the one that was given for this request_id has ended",
        "It ended or never was: allocate anew, with a fresh request_id.",
    )
    NODE_NOT_FOUND = (
        Code.NOT_FOUND,
        "No node has this name",
        "ListNodes tells the names.",
    )
    NOT_A_LEASE = (
        Code.FAILED_PRECONDITION,
        "Renew of a Pod's allocation",
        "Nothing: it lives as long as its Pod.",
    )
    HELD_BY_POD = (
        Code.FAILED_PRECONDITION,
        "Release of an allocation whose Pod lives",
        "Delete the Pod; its ports are freed with it.",
    )
    # -- the caller (see docs/security.md)
    UNAUTHENTICATED = (
        Code.UNAUTHENTICATED,
        "The caller shows neither a client certificate that names it nor a token that is accepted",
        "Connect with a certificate, or send a fresh ServiceAccount token of the allocator's audience.",
    )
    PERMISSION_DENIED = (
        Code.PERMISSION_DENIED,
        "The caller is known and may not do this",
        "Have the right that the message names granted by RBAC. Pods get their ports through the webhook alone.",
    )
    TOO_MANY_CALLS = (
        Code.RESOURCE_EXHAUSTED,
        "A caller that is no shim has 64 calls under way, or all together have 256; answers that nobody reads count",
        "Read the answers of the calls that you have made, then retry with back-off.",
    )
    ACCESS_UNKNOWN = (
        Code.UNAVAILABLE,
        "Who the caller is or what it may do could not be found out from the API server; nothing was done",
        "Retry with the same request_id and back-off; look at the API server and at the allocator's rights.",
    )
    # -- our own fault: the request may be repeated
    NOT_SERVING = (
        Code.UNAVAILABLE,
        "The allocator starts, stops or has lost its state",
        "Retry with the same request_id and back-off.",
    )
    VIEW_STALE = (
        Code.UNAVAILABLE,
        "The ports seem to be taken, and whether their holders still exist could not be found out",
        "Retry with back-off; look at the API server and at `hostport_watch_lag_seconds`.",
    )
    SEARCH_INCOMPLETE = (
        Code.ABORTED,  # not UNAVAILABLE, which clients repeat at once
        "The search for free ports was cut off: it is not known whether there is room, and nothing is said to be taken",
        "Retry with back-off; ask for fewer ports in one Pod, or for a Pod that can run on more nodes.",
    )
    JOURNAL_UNAVAILABLE = (
        Code.UNAVAILABLE,
        "The decision could not be made durable (disk full, I/O error); nothing was allocated",
        "Retry with the same request_id and back-off; see the allocator's log.",
    )
    LEASE_NOT_STORED = (
        Code.UNAVAILABLE,
        "The PortLease of a lease could not be written, for no fault of the request; nothing was granted or ended",
        "Retry with the same request_id and back-off; the message has the API server's words, and what to mend.",
    )
    DEADLINE_PASSED = (
        Code.DEADLINE_EXCEEDED,
        "The deadline passed before the decision was durable; nothing was allocated",
        "Retry with a longer deadline.",
    )
    ALLOCATOR_UNREACHABLE = (
        Code.UNAVAILABLE,
        "The shim got no answer from the allocator in time",
        "Retry; look at the allocator's health.",
    )
    TLS_FAILED = (
        Code.UNAVAILABLE,
        "The shim and the allocator do not accept each other's certificate; the message says which one, and why",
        "Retry when an administrator has mended the certificates: see docs/runbooks.md#hostportcertificatesrefused.",
    )
    TOO_MANY_REQUESTS = (
        Code.UNAVAILABLE,
        "The shim has `--max-concurrent` requests under way, a namespace half of what others leave, or 64 MiB",
        "Retry; add shim replicas.",
    )

    def __init__(self, code: Code, condition: str, remedy: str) -> None:
        self.code = code
        self.condition = condition
        self.remedy = remedy


class Notice(Enum):
    """What an admitted Pod is warned of: the value says when."""

    NO_PORTS = "The Pod has no ports: it is left untouched"
    EPHEMERAL_RANGE = "The range or a number meets the node's ephemeral range, 32768-60999"
    NODE_PORT_RANGE = "The range or a number meets the Service NodePort range, 30000-32767"
    PRIVILEGED_PORT = "A number is below 1024"
    RESERVED_PORT = "`Static`, `Passthrough` or a kept hostPort names a number that the operator reserves"
    POD_SECURITY = "The namespace enforces Pod Security baseline or restricted, which refuse hostNetwork and host ports"
    BARE_POD_APPLIED = "A bare Pod was applied: applying it again unchanged fails, as its containerPort changed"
    NO_CANDIDATE = "No node satisfies the Pod's constraints: it is admitted and stays Pending"
    ENV_KEPT = "A HOSTPORT_ variable with valueFrom is kept as it is"
    ENV_CLASH = "Two ports want the same HOSTPORT_ variable: the first in port order has it"
    BEHIND_TERMINATING = (
        "A holder of the number is terminating: the Pod is planned behind it and stays Pending until then"
    )
    BEHIND_PREEMPTED = "A holder of the number has a lower priority: the scheduler may preempt it"
    ALL_FULL = "Every candidate is full, and `when-full` is `Pending`: the Pod stays Pending until there is room"
    PORT_APPEARED = "A port appeared after the allocation (another webhook) and is held as it stands"
    # -- what the program behind the number may not know
    OLD_NUMBER = "An old number stands in args, command, env, an exec probe or hook, or in `prometheus.io/port`"
    PORT_MOVED = "A port moved, and nothing in the Pod names its HOSTPORT_ variable"
    MAPPED_PORT = "A hostPort that was mapped to another containerPort becomes the program's own"
    UNDECLARED_PORT = "A probe or hook asks a number that no port of the Pod has: hostNetwork puts it on the node"
    PROBE_HOST = "A probe or hook asks another host at a number that moved, and stays as it is"
    HOSTNAME_IS_NODE = "Command, args or env use the hostname, which with hostNetwork is the node's"
    INIT_PORT = "A port of an ordinary init container becomes a host port by the API server's defaulting"
    HOST_PORT_REPLACED = (
        "With `hostNetwork: true` a hostPort equal to its containerPort counts as unset, and was replaced"
    )
    FORMER_ENV = "A HOSTPORT_ variable of another life was removed: the Pod was restored or copied"
    PUBLISHED_INSIDE = (
        "With `hostport.io/network: Pod`, `publish` replaced the number on which the program listens in its own network"
    )
    MANY_PORTS = "More than 32 ports with `hostport.io/network: Pod`: the node writes rules for each"
    SERVICE_OLD_PORT = "A Service that selects the Pod has a numeric or defaulted targetPort that moved"
    # -- the annotations
    UNKNOWN_ANNOTATION = "An annotation under `hostport.io/` is none of ours"
    UNUSED_SETTING = "A setting that the policy or the network does not use"


def render_markdown() -> str:
    """The tables of docs/contract.md."""
    lines = [
        "<!-- Rendered by `make docs` from hostport/contract.py. Do not edit. -->",
        "# Reasons and warnings",
        "",
        "Every error carries `google.rpc.ErrorInfo` with domain `hostport.io` and one of these reasons; the same word",
        "stands in `status.reason` of the admission answer. Several mistakes in one request are reported together, as",
        "`google.rpc.BadRequest` field violations; the ErrorInfo is that of the first.",
        "",
        "| reason | condition | gRPC code | admission | what the caller should do |",
        "|---|---|---|---|---|",
    ]
    for reason in Reason:
        status = reason.code.admission_status
        answer = "HTTP 503" if status == 503 else f"denied, {status}"
        lines.append(f"| `{reason.name}` | {reason.condition} | `{reason.code.name}` | {answer} | {reason.remedy} |")
    lines += ["", "## Warnings", "", "| warning | when |", "|---|---|"]
    lines += [f"| `{notice.name}` | {notice.value} |" for notice in Notice]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(render_markdown(), end="")  # noqa: T201 - a generator's output
