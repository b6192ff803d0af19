"""Whether somebody listens on the numbers that are given, and which Pods do not although they are Ready. Pure.

What is open on a node is what its agent last reported. Nothing is said of a node that no agent reported, of a claim
that is not on a node yet, and of a Pod with a network of its own. A kernel may have SCTP and not tell of its sockets: a
number of SCTP that is not open in a report is not known, one that is open is listened on.

Rules:

* A port is listened on where a socket is open on its number and address; of a block, on any of its numbers. A socket on
  loopback alone serves nobody on another node: it counts for a port that asks for that address.
* A Pod is expected to listen from when it became Ready, until it terminates. One that opens its socket anew is silent
  from then on: silence counts from the later of both, and matters when it has lasted a minute. Of a Pod that had
  listened, or was Ready for long when it was first looked at, it counts from the look that found it.
* Who was silent for so long is asked about once more: only a report that came later counts. Agents tell of a UDP
  socket among the numbers of outgoing connections when it is a minute old, so that they are asked so much later.
* A Pod is told of once, and again only when it has listened meanwhile. Whether it listens now is looked at again in
  turns, some claims at a time.
* Nothing is looked at while no agent reports.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from math import inf
from typing import Protocol as Interface

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, ClaimId, ClaimPort, State
from allocator.core.ports import WILDCARD, PortKey, Protocol, canonical_ip
from allocator.core.store import ClaimStore

READY_SECONDS = 60.0
"""So long a Ready Pod may be silent."""

LATE_SECONDS = 75.0
"""So long after it was opened a socket is told of at the latest, where agents wait whether it is one of a client."""

LOOPBACK = ("127.", "::1")
MOST_DOUBTED = 100
"""Claims that seem not to listen, and are looked at again with each look."""

ALWAYS_REPORTED = (Protocol.TCP, Protocol.UDP)
"""Protocols of which every agent reports all sockets."""


class OpenSockets(Interface):
    """What the agents of nodes reported."""

    def reporting(self) -> Collection[NodeName]:
        """The nodes of which there is a report."""

    def addresses(self, node: NodeName, protocol: Protocol, number: int) -> Collection[str] | None:
        """The addresses on which a number is open on a node; None: there is no report. Empty text: every address."""

    def reported_at(self, node: NodeName) -> float | None:
        """When the last report came, in seconds of the ledger's clock."""

    def may_be_of_a_client(self, node: NodeName, key: PortKey) -> bool:
        """Whether the agent of a node tells of a socket on a port only when that is a minute old."""


class NoListener(Enum):
    """Why nobody listens on a number, as far as the sockets of the node show."""

    CONTAINER_PORT = "container port"  # the old number is open there, and no claim has it
    OTHER_ADDRESS = "other address"  # the number is open on other addresses alone, such as loopback
    OTHER_PROTOCOL = "other protocol"  # it is open under another protocol
    NOTHING = "nothing"  # nothing is open that would explain it


@dataclass(frozen=True, slots=True)
class SilentPort:
    """A port of a claim on which nobody listens.

    addresses: on which it is open, for OTHER_ADDRESS. protocol: under which it is open, for OTHER_PROTOCOL.
    """

    port: ClaimPort
    why: NoListener
    addresses: tuple[str, ...] = ()
    protocol: Protocol | None = None


@dataclass(frozen=True, slots=True)
class SilentPod:
    """A claim whose Pod is Ready and does not listen on all of its numbers."""

    claim: Claim
    ports: tuple[SilentPort, ...]


def is_listening(claim: Claim, key: PortKey, sockets: OpenSockets) -> bool | None:
    """Whether a port of a claim is listened on; None where that is not known."""
    if not claim.is_settled or claim.node is None or claim.own_network or claim.unmanaged:
        return None
    return is_open(claim.node, key, sockets)


def is_open(node: NodeName, key: PortKey, sockets: OpenSockets) -> bool | None:
    """Whether a port is listened on on a node; None where that is not known."""
    for number in key.numbers:
        addresses = sockets.addresses(node, key.protocol, number)
        if addresses is None:
            return None
        if addresses and any(_takes(canonical_ip(address), canonical_ip(key.ip)) for address in addresses):
            return True
    return False if key.protocol in ALWAYS_REPORTED else None


def is_heard(
    node: NodeName, key: PortKey, holders: Iterable[Claim], sockets: OpenSockets, *, has_process: bool
) -> bool | None:
    """Whether somebody listens on one number of a node, as those who have it are judged; None where that is not known.

    has_process: whether a process has it, on whatever address.
    """
    if has_process:
        return True
    said = {
        is_listening(claim, PortKey(each.ip, key.protocol, key.number), sockets)
        for claim in holders
        for each in claim.keys
        if each.meets(key)
    }
    if not said:
        return is_open(node, key, sockets)
    return True if True in said else None if None in said else False


def _takes(address: str, wanted: str) -> bool:
    """Whether a socket on an address takes what is sent to the wanted one, both canonical."""
    if wanted == WILDCARD:
        return not address.startswith(LOOPBACK)
    return address in (wanted, WILDCARD)


class ListeningWatch:
    """The Pods that are Ready and do not listen. No more is kept than there are claims."""

    def __init__(self, store: ClaimStore) -> None:
        self.sockets: OpenSockets = store.ports.sockets
        # Until when new Pods need not listen: a minute from when they were Ready, or listened; infinite: not Ready.
        self.early: dict[ClaimId, float] = {}
        self._store = store
        self._silent: dict[ClaimId, float] = {}  # since when they seem not to listen
        self._doubted: dict[ClaimId, None] = {}  # those of them whose agents are to look once more
        self._told: set[ClaimId] = set()  # until they listen
        self._wanted: dict[NodeName, None] = {}  # nodes whose agents are to report at once
        self._round: list[NodeName] = []  # nodes that are still to be looked at

    @property
    def silent(self) -> int:
        """How many Pods are Ready and do not listen on all of their numbers, on nodes of which there is a report."""
        nodes = (self._store.claims[claim_id].node for claim_id in self._told & self._silent.keys())
        return sum(node is not None and self.sockets.reported_at(node) is not None for node in nodes)

    def note(self, claim: Claim, ready_at: float | None, now: float) -> None:
        """Takes since when a claim's Pod is Ready, by the clock of `now`; None: it is not.

        Asked of settled claims whose Pods are on the host's network.
        """
        expected = inf if ready_at is None else ready_at + READY_SECONDS
        known = self.early.get(claim.id, 0.0)
        if known == inf:
            self.early[claim.id] = expected  # it tells since when the Pod is Ready, be that long ago
        elif expected > now:
            self.early[claim.id] = max(expected, known)  # it may have listened since
        else:
            self.early.pop(claim.id, None)

    def forget(self, claim_id: ClaimId) -> None:
        """The claim has ended."""
        self.early.pop(claim_id, None)
        self._silent.pop(claim_id, None)
        self._doubted.pop(claim_id, None)
        self._told.discard(claim_id)

    def take_wanted(self) -> list[NodeName]:
        """Nodes whose agents should report at once, since somebody there seems not to listen; each is given once."""
        wanted, self._wanted = list(self._wanted), {}
        return wanted

    def look(self, now: float, most: int) -> list[SilentPod]:
        """Looks at claims until they have had so many ports; gives those that are to be told of.

        A node is looked at whole, so that it may be more.
        """
        found: list[SilentPod] = []
        for claim_id in list(islice(self._doubted, MOST_DOUBTED)):
            claim = self._store.claims[claim_id]
            del self._doubted[claim_id]  # to the end, if it stays
            if claim.node is not None and (silent := self._look_at(claim, claim.node, now)):
                found.append(silent)
        if not self._round:
            self._round = sorted(self.sockets.reporting(), reverse=True)
        while self._round and most > 0:
            node = self._round.pop()
            for claim in self._claims_on(node):
                most -= 1 + sum(len(port.key.numbers) for port in claim.ports)
                silent = self._look_at(claim, node, now)
                if silent is not None:
                    found.append(silent)
            most -= 1
        return found

    def _claims_on(self, node: NodeName) -> list[Claim]:
        store = self._store
        ids = {holder for _, holders in store.nodes.held_by_slot(node) for holder in holders}
        return [store.claims[claim_id] for claim_id in sorted(ids)]

    def _look_at(self, claim: Claim, node: NodeName, now: float) -> SilentPod | None:
        expected = self.early.get(claim.id)
        if claim.state is not State.BOUND or claim.is_terminating or expected == inf:
            self._end_silence(claim)
            return None
        closed = self._closed(claim)
        if not closed:
            self._end_silence(claim)
            self._told.discard(claim.id)
            if expected is not None:
                self.early[claim.id] = now + READY_SECONDS
            return None
        if expected is not None and expected > now:
            self._end_silence(claim)
            return None
        since = self._silent.setdefault(claim.id, now if expected is None else expected - READY_SECONDS)
        if claim.id in self._told:
            return None
        due = since + READY_SECONDS
        if any(self.sockets.may_be_of_a_client(node, port.key) for port in closed):
            due += LATE_SECONDS
        if (self.sockets.reported_at(node) or 0.0) <= due:
            if now >= due:
                self._wanted[node] = None
                self._doubted[claim.id] = None
            return None
        self._told.add(claim.id)
        self._doubted.pop(claim.id, None)
        return SilentPod(claim, tuple(self._why(port, node) for port in closed))

    def _end_silence(self, claim: Claim) -> None:
        """It listens, or nobody expects that it does yet, or any more."""
        self._silent.pop(claim.id, None)
        self._doubted.pop(claim.id, None)

    def _closed(self, claim: Claim) -> list[ClaimPort]:
        return [port for port in claim.ports if is_listening(claim, port.key, self.sockets) is False]

    def _why(self, port: ClaimPort, node: NodeName) -> SilentPort:
        """What the sockets of the node say of a port that nobody listens on."""
        found = (self.sockets.addresses(node, port.protocol, number) for number in port.key.numbers)
        addresses = sorted({address for some in found for address in some or ()})
        if addresses:
            return SilentPort(port, NoListener.OTHER_ADDRESS, addresses=tuple(addresses))
        if self._is_on_its_container_port(port, node):
            return SilentPort(port, NoListener.CONTAINER_PORT)
        for other in Protocol:
            if other is not port.protocol and self.sockets.addresses(node, other, port.host_port):
                return SilentPort(port, NoListener.OTHER_PROTOCOL, protocol=other)
        return SilentPort(port, NoListener.NOTHING)

    def _is_on_its_container_port(self, port: ClaimPort, node: NodeName) -> bool:
        """Whether the old number is open, and no claim on the node has it: what listens there may be the program."""
        old = port.container_port
        if not old or old == port.host_port or not self.sockets.addresses(node, port.protocol, old):
            return False
        return not self._store.ports.holders(node, PortKey(WILDCARD, port.protocol, old))
