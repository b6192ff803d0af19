"""The annotations of a Pod: who writes each, what it may say, what is meant without it.

Rules:

* A name stands here and nowhere else: the shim and the allocator read it from here, and the tables of
  docs/annotations.md are made from here by `pages`.
* What a value becomes is in `shim.annotations`. `tests/shim/test_annotations.py` names every row that the parser, a
  page or a test has forgotten.
"""

from __future__ import annotations

from enum import Enum

from hostport.contract import defaults
from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT, MOST_NUMBERS
from hostport.contract.policies import DEFAULT_POLICY, INDEXED, POLICIES, RANGED, SEARCHED
from hostport.contract.words import listed

PREFIX = "hostport.io/"

EXTERNAL_ADDRESS = PREFIX + "external-address"
"""A label. Of a Namespace, with "true": its Pods are told the address of their node. Of a Node: that address."""

_NUMBER = f"{LOWEST_PORT}..{HIGHEST_PORT}"
_POLICIES = ", ".join(f"`{name}`" for name in POLICIES)
_RANGED, _INDEXED, _SEARCHED = (listed([f"`{name}`" for name in names]) for names in (RANGED, INDEXED, SEARCHED))


class Writer(Enum):
    """Who writes an annotation."""

    USER = "user"
    SHIM = "shim"


class Annotation(Enum):
    """One annotation: (name, writer, meaning, default, the values that it may have if they can be listed).

    A name that ends in `-` is followed by the name of a port. `meaning` is what people read in the docs, and names
    every value; `default` says there what is meant without the annotation.
    """

    ENABLED = (
        "enabled",
        Writer.USER,
        '`"true"` activates; `"false"` or absent leaves the Pod untouched; anything else is denied',
        "",
        ("true", "false"),
    )
    POLICY = ("policy", Writer.USER, f"{_POLICIES}, exactly", f"`{DEFAULT_POLICY}`", tuple(POLICIES))
    MIN_PORT = (
        "min-port",
        Writer.USER,
        f"{_NUMBER}, lowest number of {_RANGED}",
        f"`{defaults.MIN_PORT}`",
    )
    MAX_PORT = (
        "max-port",
        Writer.USER,
        f"{_NUMBER}, highest number of {_RANGED}",
        f"`{defaults.MAX_PORT}`; with min-port alone, min-port + {defaults.RANGE_WIDTH}",
    )
    STRIDE = (
        "stride",
        Writer.USER,
        f"{_NUMBER}, distance between two port groups of one Pod under {_INDEXED}",
        f"`{defaults.STRIDE}`",
    )
    DNS_POLICY = (
        "dns-policy",
        Writer.USER,
        "`Keep` leaves dnsPolicy alone",
        "`ClusterFirst` becomes `ClusterFirstWithHostNet`",
        ("Keep",),
    )
    INJECT_ENV = ("inject-env", Writer.USER, '`"false"` leaves env alone', '`"true"`', ("true", "false"))
    WHEN_FULL = (
        "when-full",
        Writer.USER,
        (
            "`Deny`, or `Pending`: admit a Pod for which every node is full and no holder is about to go, so that a"
            " cluster autoscaler sees it"
        ),
        "`Deny`, or the allocator's `--when-full`",
        ("Deny", "Pending"),
    )
    NETWORK = (
        "network",
        Writer.USER,
        (
            "`Host`: the Pod is on the node's network, and the program listens on its number. `Pod`: the Pod keeps a"
            " network of its own, only `hostPort` is set, and the node maps it to the containerPort"
        ),
        "`Host`, or the shim's `--default-network`",
        ("Host", "Pod"),
    )
    REWRITE = (
        "rewrite",
        Writer.USER,
        (
            '`"true"`: the old numbers in args, commands, variables, exec probes and hooks of the port\'s own container'
            " become the new ones, and `prometheus.io/port`"
        ),
        '`"false"`',
        ("true", "false"),
    )
    COOL_DOWN = (
        "cool-down",
        Writer.USER,
        (
            f"how long a number of {_SEARCHED} that another Pod or lease gave up on the node is left alone, while"
            ' others are free: `"10m"`, at most `"1h"`; `"0s"`: not at all'
        ),
        f"`{defaults.COOL_DOWN_SECONDS:g}s`, or the allocator's `--cool-down`",
    )
    PUBLISH = (
        "publish-",
        Writer.USER,
        (
            "where else the number is written: `env:SERVER_PORT, annotation:prometheus.io/port, "
            "label:example.com/port`. An unnamed port is called by its containerPort, one whose name"
            " two containers have `<container>-<name>`"
        ),
        "",
    )
    BLOCK = (
        "block-",
        Writer.USER,
        (
            f'`"100"`, 2..{MOST_NUMBERS:,}: the port stands for so many consecutive numbers, and has the first of them;'
            ' `"100 even"`: the first is even. The port is called as for `publish-`. See [Blocks](blocks.md)'
        ),
        "one number",
    )
    ALLOCATED = (
        "allocated-",
        Writer.SHIM,
        (
            'the number of each named port, such as `allocated-primary: "10000"`, of a block `"20000-20099"`. An'
            " unnamed port: `allocated-"
            "<old containerPort>-<protocol>`; a name that two containers use: `allocated-<container>-<port>`"
        ),
        "",
    )
    ALLOCATIONS = (
        "allocations",
        Writer.SHIM,
        (
            "a JSON list of `{container, name, protocol, containerPort, hostPort}` with the containerPort that you"
            " wrote; a block has `count` too, and its hostPort is the first"
        ),
        "",
    )
    ALLOCATION_ID = ("allocation-id", Writer.SHIM, "the id under which the allocator holds these ports for the Pod", "")
    WARNINGS = (
        "warnings",
        Writer.SHIM,
        (
            "the words of the [warnings](contract.md#warnings) about the Pod, such as `OLD_NUMBER,PORT_MOVED`. kubectl"
            " shows warnings only of a Pod that you create yourself, not of one that a controller creates"
        ),
        "",
    )
    EXTERNAL_IP = (
        "external-ip",
        Writer.SHIM,
        (
            'in a namespace with the label `hostport.io/external-address: "true"`: the address of the Pod\'s node that'
            " clients outside dial ([Addresses](address.md)). Written when the Pod gets its node"
        ),
        "",
    )
    EXTERNAL_IP_V4 = ("external-ip-v4", Writer.SHIM, "its IPv4 address, where it has one", "")
    EXTERNAL_IP_V6 = ("external-ip-v6", Writer.SHIM, "its IPv6 address, where it has one", "")
    REWRITTEN = ("rewritten", Writer.SHIM, "with `rewrite`: what was replaced, and what was left and why", "")

    def __init__(self, name: str, writer: Writer, meaning: str, default: str, values: tuple[str, ...] = ()) -> None:
        self.text = PREFIX + name
        self.writer = writer
        self.meaning = meaning
        self.default = default
        self.values = values

    @property
    def is_prefix(self) -> bool:
        """Whether the name of a port follows."""
        return self.text.endswith("-")

    @property
    def shown(self) -> str:
        """The name as people read it."""
        return f"{self.text}<port>" if self.is_prefix else self.text
