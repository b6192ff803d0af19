"""How large one ask may be: the numbers that both programs check before they begin any work on it.

Rules:

* What one ask costs is bounded, whatever it says: at 5,000 nodes the largest that is let in takes less than 50 ms of
  CPU in one turn of the event loop. `tests/allocator/test_ask_cost.py` and `tests/shim/test_review_cost.py` show it.
* The bounds are far above what Pods have. Kubernetes itself bounds annotations (256 KiB) and the whole object (1.5 MiB
  in etcd), and nothing else of what stands here.
* A refusal names the field, the count, the bound, and what to do.
"""

from __future__ import annotations

from enum import Enum

LOWEST_PORT, HIGHEST_PORT = 1, 65535

MOST_PORTS = 512
MOST_NUMBERS = 1024
"""Numbers that all ports of one owner stand for, those of blocks among them; and so the largest block."""

MOST_AVOIDED = 512
"""Numbers that the probes and hooks of a Pod name and that none of its ports has."""

MOST_STEERED = 32
"""Nodes that a Pod is kept off by name, at one admission: each is a requirement in each of its terms."""

LONGEST_NAME = 253
"""Characters of a name, a namespace or a uid: a DNS subdomain, the longest name that Kubernetes has."""

LONGEST_ADDRESS = 64
"""Characters of an IP address. The longest has 45, and its zone a few more."""

LONGEST_PROCESS = 64
"""Characters of the name of a process."""

MOST_SOCKETS, MOST_FOREIGN = 10_000, 5_000
"""Open sockets that are kept for a node, and those of them that no Pod or lease of the node declares."""

MOST_OF_A_MESSAGE = 1000
"""Sockets that open, or close, in one message of a node's agent."""

LONGEST_REQUEST_ID = 128
"""Characters of a request_id, as it is sent and as it is kept, in the journal and in a PortLease alike."""

LONGEST_DESCRIPTION = 256
"""Characters of an owner's description."""

SHORTEST_LEASE, LONGEST_LEASE = 1.0, 30 * 24 * 3600.0
"""Seconds of a lease's time to live."""

LONGEST_COOL_DOWN = 3600.0
"""Seconds for which a number that was given up is left alone, at most. What was given up before is forgotten."""

MOST_OF_A_PAGE = 1000
"""Entries that a caller may ask for at once."""

LARGEST_ANSWER = 1 << 20
"""Bytes of an answer of the shim."""

LONGEST_WARNING = 200
"""Characters of a warning. The API server cuts warnings at 256, and asks for 120 or less where that will do."""

LARGEST_TRAILERS = 7500
"""Bytes of a refusal on the wire: gRPC takes up to 8 KiB of trailers, with others in them."""

LARGEST_PATCH = 768_000
"""Bytes of a JSONPatch. Base64 makes it a third longer, and the warnings beside it take up to 20 kB."""


_LABEL = "Give the nodes that are meant one label, and ask for that"


class Bound(Enum):
    """What is counted, how many there may be, and what to do: (what, most, remedy)."""

    TERMS = ("terms of required node affinity", 256, _LABEL)
    EXPRESSIONS = ("expressions in all terms of required node affinity", 1024, _LABEL)
    VALUES = ("values in all expressions of required node affinity", 4096, _LABEL)
    SELECTOR = ("entries of a node selector", 256, _LABEL)
    TOLERATIONS = ("tolerations", 256, 'Use operator "Exists", which tolerates every value of a taint')
    CONSTRAINTS = ("bytes of node selector, required node affinity and tolerations", 128 << 10, _LABEL)
    CONTAINERS = ("containers and init containers", 512, "Split the Pod")
    ENV = ("environment variables of all containers", 4096, "Use envFrom with a ConfigMap, or split the Pod")
    ANNOTATIONS = ("annotations", 4096, "Keep what is long in a ConfigMap")
    ANNOTATION_BYTES = ("bytes of annotations", 256 << 10, "Keep what is long in a ConfigMap")
    OWNERS = ("owner references", 256, "Name the owners that count")
    MANAGERS = ("entries of managed fields", 256, "Create the Pod without them: the API server writes them")
    SYSCTLS = ("sysctls", 512, "Set those that count")
    OBJECTS = ("opening braces in the review", 32_768, "Split the Pod, or use envFrom with a ConfigMap")
    LABELS = ("labels", 1024, "Keep what nobody selects by in annotations")
    TEXTS = (
        "characters of args, commands and variables (8 more for each), with hostport.io/rewrite,",
        64 << 10,
        "Keep long texts in a ConfigMap, or remove hostport.io/rewrite",
    )
    COMMANDS = ("bytes of args and commands of all containers", 512 << 10, "Keep long scripts in a ConfigMap")
    PUBLISHED = ("targets of hostport.io/publish annotations", 128, "Publish what is read")
    BLOCKS = ("hostport.io/block annotations", 128, "Ask for fewer and larger blocks")
    UNDECLARED = ("numbers that probes and hooks name and no port has", MOST_AVOIDED, "Declare them in ports")
    PATCH = (
        "bytes of the patch, for HOSTPORT_ variables of every port in every container,",
        LARGEST_PATCH,
        'Set hostport.io/inject-env: "false", use fewer ports or fewer containers, or shorten their names',
    )

    def __init__(self, what: str, most: int, remedy: str) -> None:
        self.what = what
        self.most = most
        self.remedy = remedy

    def told(self, count: int) -> str:
        """The sentence of a refusal."""
        return f"{count:,} {self.what} are more than {self.most:,}. {self.remedy}"
