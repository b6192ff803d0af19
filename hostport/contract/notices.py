"""What an admitted Pod is warned of. docs/contract.md is made from this table; a check keeps them equal."""

from __future__ import annotations

from enum import auto
from typing import Self

from hostport.contract.words import Word


class Notice(Word):
    """What an admitted Pod is warned of: (its word, when)."""

    NO_PORTS = (auto(), "The Pod has no ports: it is left untouched")
    EPHEMERAL_RANGE = (
        auto(),
        "The range or a number meets the nodes' ephemeral range, 32768-60999 where no agent says it",
    )
    NODE_PORT_RANGE = (auto(), "The range or a number meets the Service NodePort range, 30000-32767")
    PRIVILEGED_PORT = (auto(), "A number is below 1024")
    RESERVED_PORT = (auto(), "`Static`, `Passthrough` or a kept hostPort names a number that the operator reserves")
    POD_SECURITY = (
        auto(),
        "The namespace enforces Pod Security baseline or restricted, which refuse hostNetwork and host ports",
    )
    BARE_POD_APPLIED = (
        auto(),
        "A bare Pod was applied: applying it again unchanged fails, as its containerPort changed",
    )
    NO_CANDIDATE = (auto(), "No node satisfies the Pod's constraints: it is admitted and stays Pending")
    ENV_KEPT = (auto(), "A HOSTPORT_ variable with valueFrom is kept as it is")
    ENV_CLASH = (auto(), "Two ports want the same HOSTPORT_ variable: the first in port order has it")
    BEHIND_TERMINATING = (
        auto(),
        "A holder of the number is terminating: the Pod is planned behind it and stays Pending until then",
    )
    BEHIND_PREEMPTED = (auto(), "A holder of the number has a lower priority: the scheduler may preempt it")
    ALL_FULL = (
        auto(),
        "Every candidate is full, and `when-full` is `Pending`: the Pod stays Pending until there is room",
    )
    STEERED = (
        auto(),
        "Somebody whom the scheduler does not know holds a fixed number on some candidates: the Pod is kept off those",
    )
    HELD_BY_PROCESS = (
        auto(),
        "A process that no Pod declares has a number where the Pod may run, and the Pod could not be kept off it",
    )
    PORT_APPEARED = (auto(), "A port appeared after the allocation (another webhook) and is held as it stands")
    # -- what the program that listens may not know
    OLD_NUMBER = (
        auto(),
        "An old number stands in args, command, env, an exec probe or hook, or in `prometheus.io/port`",
    )
    PORT_MOVED = (auto(), "A port moved, and nothing in the Pod names its HOSTPORT_ variable")
    MAPPED_PORT = (auto(), "A hostPort that was mapped to another containerPort becomes the program's own")
    UNDECLARED_PORT = (
        auto(),
        "A probe or hook asks a number that no port of the Pod has: hostNetwork puts it on the node",
    )
    PROBE_HOST = (auto(), "A probe or hook asks another host at a number that moved, and stays as it is")
    HOSTNAME_IS_NODE = (auto(), "Command, args or env use the hostname, which with hostNetwork is the node's")
    INIT_PORT = (auto(), "A port of an ordinary init container becomes a host port by the API server's defaulting")
    HOST_PORT_REPLACED = (
        auto(),
        "With `hostNetwork: true` a hostPort equal to its containerPort counts as unset, and was replaced",
    )
    FORMER_ENV = (auto(), "A HOSTPORT_ variable of another life was removed: the Pod was restored or copied")
    PUBLISHED_INSIDE = (
        auto(),
        "With `hostport.io/network: Pod`, `publish` wrote the node's number where the Pod's own is wanted",
    )
    MANY_PORTS = (auto(), "More than 32 ports with `hostport.io/network: Pod`: the node writes rules for each")
    SERVICE_OLD_PORT = (auto(), "A Service that selects the Pod has a numeric or defaulted targetPort that moved")
    # -- the annotations
    UNKNOWN_ANNOTATION = (auto(), "An annotation under `hostport.io/` is none of ours")
    UNUSED_SETTING = (auto(), "A setting that the policy or the network does not use")

    condition: str

    def __new__(cls, word: str, condition: str) -> Self:
        """`word` is the member's name."""
        made = str.__new__(cls, word)
        made._value_, made.condition = word, condition
        return made
