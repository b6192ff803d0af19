"""Why a request is refused. docs/contract.md is made from this table; a check keeps them equal.

Longer than 350 lines because it is one table.
"""

from __future__ import annotations

from enum import auto
from typing import Self

from hostport.contract import defaults
from hostport.contract.limits import MOST_FOREIGN, MOST_NUMBERS, MOST_PORTS, MOST_SOCKETS
from hostport.contract.policies import POLICIES
from hostport.contract.words import Code, Word


class Reason(Word):
    """Why a request was refused: (its word, code, condition, what the caller should do)."""

    # -- the user's annotations (the shim)
    ENABLED_VALUE = (
        auto(),
        Code.INVALID_ARGUMENT,
        "`hostport.io/enabled` is neither `true` nor `false`",
        'Write `"true"` or `"false"`, in lower case and in quotes.',
    )
    UNKNOWN_POLICY = (
        auto(),
        Code.INVALID_ARGUMENT,
        f"The policy is none of {', '.join(f'`{name}`' for name in POLICIES)}",
        "Write one of them exactly; the message names the nearest.",
    )
    UNKNOWN_VALUE = (
        auto(),
        Code.INVALID_ARGUMENT,
        "An annotation or field has a value outside its short list",
        "Use one of the values that the message names.",
    )
    NOT_A_NUMBER = (
        auto(),
        Code.INVALID_ARGUMENT,
        "An annotation that takes a number has something else",
        'Write decimal digits in quotes, such as `"10000"`.',
    )
    HOST_NETWORK_FORBIDDEN = (
        auto(),
        Code.INVALID_ARGUMENT,
        "The Pod has a field that Kubernetes refuses together with hostNetwork, or that breaks with it",
        "Remove the field that the message names, or set `hostport.io/network` to `Pod`.",
    )
    NETWORK_MISMATCH = (
        auto(),
        Code.INVALID_ARGUMENT,
        "`hostport.io/network` is `Pod`, and the Pod has `hostNetwork: true`",
        "Remove `hostNetwork`, or set `hostport.io/network` to `Host`.",
    )
    PUBLISH_INVALID = (
        auto(),
        Code.INVALID_ARGUMENT,
        "A `hostport.io/publish-<port>` names no port of the Pod, or a target that is none or that others act on",
        "Name a port, and `env:NAME`, `annotation:KEY` or `label:KEY` with a key of your own domain.",
    )
    # -- the request (shim and allocator)
    NUMBER_OUT_OF_RANGE = (
        auto(),
        Code.INVALID_ARGUMENT,
        "A port, bound or stride is not in 1..65535",
        "Use a number in 1..65535.",
    )
    INVALID_REQUEST = (
        auto(),
        Code.INVALID_ARGUMENT,
        "A field is missing, too long or malformed",
        "Correct the field that the message names; do not retry unchanged.",
    )
    NO_PORTS = (
        auto(),
        Code.INVALID_ARGUMENT,
        "The request asks for no port",
        "Ask for at least one port.",
    )
    TOO_MANY_PORTS = (
        auto(),
        Code.INVALID_ARGUMENT,
        f"The request asks for more than {MOST_PORTS} ports",
        "Split the owner, or ask for fewer ports.",
    )
    TOO_MANY_NUMBERS = (
        auto(),
        Code.INVALID_ARGUMENT,
        f"The ports of one owner stand for more than {MOST_NUMBERS} numbers, those of blocks counted one by one",
        "Ask for smaller blocks, or split the owner.",
    )
    BLOCK_INVALID = (
        auto(),
        Code.INVALID_ARGUMENT,
        f"A block is none of 2 to {MOST_NUMBERS} numbers, or is asked for at a port that is not there",
        "Write a number of ports, such as `100` or `100 even`, at a port that the Pod has.",
    )
    BLOCK_SIZES_DIFFER = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Two ports that share their number (one containerPort of one container) ask for blocks of different sizes",
        "Ask for one size and one alignment at each of them.",
    )
    BLOCK_MISALIGNED = (
        auto(),
        Code.INVALID_ARGUMENT,
        "A block has to begin at an even number, and the number that was set or computed is odd",
        "Set an even number, or leave `even` out.",
    )
    RANGE_TOO_SMALL = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Dynamic` over a range with no room for the block, or for the ports beside it, whoever holds what",
        "Raise max-port, or ask for a smaller block.",
    )
    TOO_COMPLEX = (
        auto(),
        Code.INVALID_ARGUMENT,
        "One ask has so many terms, values, tolerations, containers or variables that others would wait for it",
        "Make smaller what the message names, with its count and its bound; do not retry unchanged.",
    )
    RANGE_INVERTED = (
        auto(),
        Code.INVALID_ARGUMENT,
        "min-port is greater than max-port",
        f"Swap them, or set both: unset, min-port is {defaults.MIN_PORT} and max-port {defaults.RANGE_WIDTH} above it.",
    )
    NO_INDEX = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Index` without an index",
        "Use a StatefulSet, an Indexed Job or a Pod name that ends in -<number>; else policy `Dynamic`.",
    )
    INDEX_EXCEEDS_STRIDE = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Index` with several port groups and an index, or with blocks its numbers, beyond the stride",
        "Raise the stride above the highest index; with blocks above that many blocks.",
    )
    NUMBER_BEYOND_RANGE = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Index` computes a number above max-port or 65535, or a block ends above 65535",
        "Raise max-port, lower min-port or stride, or run fewer replicas.",
    )
    OWN_PORTS_COLLIDE = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Two ports of one request would get the same number, protocol and address",
        "Give them different numbers, or use policy `Dynamic`.",
    )
    HOST_PORT_MISSING = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Static` on a port without a hostPort",
        "Set hostPort on every port, or use another policy.",
    )
    CONTAINER_PORT_MISSING = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Passthrough` on a port without a containerPort",
        "Set the containerPort.",
    )
    PORT_RESERVED = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Index` computes a number that the operator reserves (`--reserved-ports`), or a lease or block has one",
        "Move min-port, or name other numbers; a Pod's `Static` and `Passthrough` may name a reserved one by itself.",
    )
    RANGE_RESERVED = (
        auto(),
        Code.INVALID_ARGUMENT,
        "Policy `Dynamic` over a range in which every number is reserved (`--reserved-ports`), or no run without one",
        "Choose another range.",
    )
    INVALID_TTL = (
        auto(),
        Code.INVALID_ARGUMENT,
        "The time to live is negative, zero or more than 30 days, or was set for a Pod",
        "Send 1 s to 30 days, or leave it unset for 1 hour; Pods have none.",
    )
    INVALID_COOL_DOWN = (
        auto(),
        Code.INVALID_ARGUMENT,
        "The cool-down is no duration, negative, or more than 1 hour",
        'Send 0 s to 1 hour, in an annotation as `"10m"`, or leave it unset for what the operator set.',
    )
    NAMESPACE_NOT_FOUND = (
        auto(),
        Code.INVALID_ARGUMENT,
        "A lease is asked for an owner whose namespace does not exist, or is being deleted",
        "Create the namespace, or name another.",
    )
    REQUEST_ID_REUSED = (
        auto(),
        Code.INVALID_ARGUMENT,
        "The request_id was used before with another request",
        "Use a fresh request_id for every new request, the old one only to repeat it.",
    )
    INVALID_PAGE = (
        auto(),
        Code.INVALID_ARGUMENT,
        "page_token is not one that we gave, or page_size is negative",
        "Start again without page_token.",
    )
    # -- the state of the world
    PORT_CONFLICT = (
        auto(),
        Code.FAILED_PRECONDITION,
        "A fixed number is taken on every node where the owner may run",
        "Choose another number, free the holder that the message names, or add nodes.",
    )
    HELD_BY_LEASE = (
        auto(),
        Code.FAILED_PRECONDITION,
        "A fixed number is leased on all nodes where the Pod may run; or on one, and the Pod cannot be kept off it",
        "Choose another number, or end the lease that the message names.",
    )
    HELD_BY_SERVICE = (
        auto(),
        Code.FAILED_PRECONDITION,
        "A fixed number is the node port of a Service, which kube-proxy takes on every node",
        "Choose another number, or give the Service that the message names another node port.",
    )
    RANGE_EXHAUSTED = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "Policy `Dynamic` finds no number of the range for the owner",
        "Widen the range, free ports, or add nodes.",
    )
    WATCH_BEHIND = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "A watcher did not read its events in time, so that some were dropped",
        "Watch again: a new watch begins with a snapshot.",
    )
    STREAM_UNREAD = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "The answers of an AllocateStream were not read in time",
        "Open another stream, and ask again with the same request_ids what was not answered.",
    )
    UNCONFIRMED_BACKLOG = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "Pods of this owner were admitted here and never appeared",
        "Look for what refuses them after admission: a quota, Pod Security, another webhook. Then wait.",
    )
    NAMESPACE_BACKLOG = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "As many Pods of this namespace as may (`--namespace-reservations`) were admitted here and did not appear",
        "Look for what refuses them after admission: a quota, Pod Security, another webhook. Or raise the bound.",
    )
    TOO_MANY_LEASES = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "The namespace leases as many ports as it may (`--namespace-leases`)",
        "Release leases that nobody uses, or raise the bound.",
    )
    LEASE_QUOTA = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "A ResourceQuota of the owner's namespace has no room for the PortLease of another lease",
        "Release leases that nobody uses, or have the quota raised.",
    )
    LEASE_FORBIDDEN = (
        auto(),
        Code.FAILED_PRECONDITION,
        "The cluster takes no such PortLease: an admission policy or webhook, or its schema, says no",
        "Ask for what the message names; to repeat the same request is in vain.",
    )
    ALLOCATION_NOT_FOUND = (
        auto(),
        Code.NOT_FOUND,
        "No live allocation has this id, or the one that was given for this request_id has ended",
        "It ended or never was: allocate anew, with a fresh request_id.",
    )
    NODE_NOT_FOUND = (
        auto(),
        Code.NOT_FOUND,
        "No node has this name",
        "ListNodes tells the names.",
    )
    NOT_A_LEASE = (
        auto(),
        Code.FAILED_PRECONDITION,
        "Renew of a Pod's allocation",
        "Nothing: it lives as long as its Pod.",
    )
    HELD_BY_POD = (
        auto(),
        Code.FAILED_PRECONDITION,
        "Release of an allocation whose Pod lives",
        "Delete the Pod; its ports are freed with it.",
    )
    # -- the caller (see docs/security.md)
    UNAUTHENTICATED = (
        auto(),
        Code.UNAUTHENTICATED,
        "The caller shows neither a client certificate that names it nor a token that is accepted",
        "Connect with a certificate, or send a fresh ServiceAccount token of the allocator's audience.",
    )
    PERMISSION_DENIED = (
        auto(),
        Code.PERMISSION_DENIED,
        "The caller is known and may not do this",
        "Have the right that the message names granted by RBAC. Pods get their ports through the webhook alone.",
    )
    NODE_NOT_ITS_OWN = (
        auto(),
        Code.PERMISSION_DENIED,
        "A node's agent reports of a node that its token is not bound to",
        "Give each agent the token of its own Pod; one that comes from another node is a sign of theft.",
    )
    REPORT_TOO_LARGE = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        f"A node has more than {MOST_SOCKETS} open sockets, or more than {MOST_FOREIGN} that no Pod there declares",
        "Look on the node for what opens them; the allocator's log names it.",
    )
    REPORT_REPLACED = (
        auto(),
        Code.ABORTED,
        "Another stream of the same node has begun, or the Node was gone meanwhile and nothing is known of it",
        "Open a stream anew, with a snapshot.",
    )
    TOO_MANY_CALLS = (
        auto(),
        Code.RESOURCE_EXHAUSTED,
        "A user has 64 calls under way, or all users 256, unread answers too; or an agent begins stream after stream",
        "Read the answers of the calls that you have made, then retry with back-off.",
    )
    ACCESS_UNKNOWN = (
        auto(),
        Code.UNAVAILABLE,
        "Who the caller is or what it may do could not be found out from the API server; nothing was done",
        "Retry with the same request_id and back-off; look at the API server and at the allocator's rights.",
    )
    # -- our own fault: the request may be repeated
    NOT_SERVING = (
        auto(),
        Code.UNAVAILABLE,
        "The allocator starts, stops or has lost its state",
        "Retry with the same request_id and back-off.",
    )
    VIEW_STALE = (
        auto(),
        Code.UNAVAILABLE,
        "The ports seem to be taken, and whether their holders still exist could not be found out",
        "Retry with back-off; look at the API server and at `hostport_watch_lag_seconds`.",
    )
    SEARCH_INCOMPLETE = (
        auto(),
        Code.ABORTED,  # not UNAVAILABLE, which clients repeat at once
        "The search for free ports was cut off: it is not known whether there is room, and nothing is said to be taken",
        "Retry with back-off; ask for fewer ports in one Pod, or for a Pod that can run on more nodes.",
    )
    JOURNAL_UNAVAILABLE = (
        auto(),
        Code.UNAVAILABLE,
        "The decision could not be made durable (disk full, I/O error); nothing was allocated",
        "Retry with the same request_id and back-off; see the allocator's log.",
    )
    LEASE_NOT_STORED = (
        auto(),
        Code.UNAVAILABLE,
        "The PortLease of a lease could not be written, for no fault of the request; nothing was granted or ended",
        "Retry with the same request_id and back-off; the message has the API server's words, and what to mend.",
    )
    DEADLINE_PASSED = (
        auto(),
        Code.DEADLINE_EXCEEDED,
        "The deadline passed before the decision was durable; nothing was allocated",
        "Retry with a longer deadline.",
    )
    ALLOCATOR_UNREACHABLE = (
        auto(),
        Code.UNAVAILABLE,
        "The shim got no answer from the allocator in time",
        "Retry; look at the allocator's health.",
    )
    TLS_FAILED = (
        auto(),
        Code.UNAVAILABLE,
        "The shim and the allocator do not accept each other's certificate; the message says which one, and why",
        "Retry when an administrator has mended the certificates: see docs/runbooks.md#hostportcertificatesrefused.",
    )
    TOO_MANY_REQUESTS = (
        auto(),
        Code.UNAVAILABLE,
        "The shim has `--max-concurrent` requests under way, a namespace half of what others leave, or 64 MiB",
        "Retry; add shim replicas.",
    )

    code: Code
    condition: str
    remedy: str

    def __new__(cls, word: str, code: Code, condition: str, remedy: str) -> Self:
        """`word` is the member's name."""
        made = str.__new__(cls, word)
        made._value_, made.code, made.condition, made.remedy = word, code, condition, remedy
        return made
