"""What an agent sends, parsed once: messages become one whole report, and a report what changes in the books. Pure.

Rules:

* Whatever an agent sends has a bound, which is checked before anything is made of it.
* A report counts when its last message is there. Until then nothing of it is told.
* Of a number, a protocol and an address there is one socket: where several are told, the last one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.kept import SizedCache, kept_once
from allocator.core.ports import Slot, read_ip, slot_of, span
from allocator.core.sockets import Listener, NodeFacts, NodeSockets, SocketChange, listener
from allocator.core.view import NodesView
from allocator.wire import PROTOCOLS, to_timestamp
from hostport.contract import Mistake, Reason
from hostport.contract.limits import (
    HIGHEST_PORT,
    LONGEST_ADDRESS,
    LONGEST_PROCESS,
    LOWEST_PORT,
    MOST_FOREIGN,
    MOST_OF_A_MESSAGE,
    MOST_SOCKETS,
)
from hostport.v1 import allocator_pb2 as pb

Changes = tuple[list[tuple[Slot, str]], list[tuple[Slot, Listener]]]
"""What closes, and what opens."""

SocketKey = tuple[Slot, str]
"""A protocol and a number, and an address (canonical)."""

_PROTOCOLS = {value: protocol for protocol, value in PROTOCOLS.items()}
"""Those that a socket may have: one that is not set is none, other than in a request."""

_FACTS: SizedCache[NodeFacts, NodeFacts] = SizedCache(4 << 20)
"""What nodes say besides sockets: with some numbers kept it takes up to 8 KiB, and most nodes say the same."""


class Report:
    """A report, message by message. `snapshot`: whether what was told before is closed."""

    def __init__(self) -> None:
        self.snapshot = False
        self.opened: dict[SocketKey, Listener] = {}
        self.closed: dict[SocketKey, None] = {}
        self.facts: NodeFacts | None = None

    def add(self, message: pb.ReportNodeRequest, facts: NodeFacts) -> None:
        """Takes a message. facts: what the agent said of its node before.

        Raises:
            Refused: something in it is not what it should be, or there is too much of it.

        """
        for name, sockets in (("opened", message.opened), ("closed", message.closed)):
            _check_count(name, len(sockets), MOST_OF_A_MESSAGE)
        if message.snapshot:
            self.snapshot = True
            self.opened.clear()
            self.closed.clear()
        for socket in message.closed:
            key = _socket_key(socket, "closed")
            self.opened.pop(key, None)
            self.closed[key] = None
        for socket in message.opened:
            key = _socket_key(socket, "opened")
            self.closed.pop(key, None)
            self.opened[key] = listener(key[1], _process(socket.process), socket.uid)
        if len(self.opened) > MOST_SOCKETS or len(self.closed) > MOST_SOCKETS:
            raise too_large(max(len(self.opened), len(self.closed)), 0)
        self.facts = _facts(message, self.facts or facts)

    def changes(self, known: NodeSockets, undeclared: Callable[[set[Slot]], int]) -> Changes:
        """What closes and what opens. Without a snapshot only what the report names is compared.

        known: what was told before. What is presumed to be closed and told again without a snapshot has opened.
        undeclared: how many of some slots nobody on the node declares.

        Raises:
            Refused: more would be open then than may be.

        """
        if not (self.snapshot or self.opened or self.closed):
            return [], []
        if self.snapshot:
            before = {(slot, socket.ip): socket for slot, socket in known.told()}
        else:
            before = {key: told for key in (*self.closed, *self.opened) if (told := known.told_on(*key)) is not None}
        gone = before.keys() - self.opened.keys()
        anew = () if self.snapshot else known.presumed
        opened = [(key[0], socket) for key, socket in self.opened.items() if before.get(key) != socket or key in anew]
        left = known.count_told() - len(gone) + len(self.opened.keys() - before.keys())
        if left > MOST_FOREIGN:
            foreign = undeclared(known.told_slots(less=gone) | {slot for slot, _ in self.opened})
            if left > MOST_SOCKETS or foreign > MOST_FOREIGN:
                raise too_large(left, foreign)
        return sorted(gone), opened


def parts(
    node: NodeName,
    closed: list[SocketKey],
    opened: list[tuple[Slot, Listener]],
    facts: NodeFacts,
    most: int,
) -> Iterator[SocketChange]:
    """The changes of a report in parts of so many sockets at most; the last one makes it whole."""
    steps = [SocketChange(node=node, closed=closed[at : at + most]) for at in range(0, len(closed), most)]
    steps += [SocketChange(node=node, opened=opened[at : at + most]) for at in range(0, len(opened), most)]
    yield from steps
    yield SocketChange(node=node, facts=facts)


def node_report(nodes: NodesView, name: NodeName, *, ahead: float) -> pb.NodeReport | None:
    """What a node's agent last said, in short; None: nothing.

    ahead: seconds that the wall clock is ahead of the one of the books.
    """
    said = nodes.last_report(name)
    return said and pb.NodeReport(
        report_time=to_timestamp(said.at + ahead),
        current=said.is_current,
        ephemeral_range=pb.PortRange(min=said.ephemeral[0], max=said.ephemeral[1]) if said.ephemeral else None,
        foreign_port_count=said.undeclared,
        reserves=said.reserves,
    )


def too_large(count: int, foreign: int) -> Refused:
    """The answer to a report of more sockets than are kept for a node. foreign: those that nobody declares."""
    message = (
        f"{count} sockets, {foreign} of them on numbers that no Pod of the node declares: at most {MOST_SOCKETS} and"
        f" {MOST_FOREIGN} are kept for a node. What was told before goes on counting"
    )
    return Refused(Mistake(Reason.REPORT_TOO_LARGE, "opened", message))


def _check_count(field: str, count: int, most: int) -> None:
    if count > most:
        raise _invalid_report(field, f"{count} entries are more than the {most} of one message")


def _socket_key(socket: pb.Socket, field: str) -> SocketKey:
    protocol = _PROTOCOLS.get(socket.protocol)
    if protocol is None or not LOWEST_PORT <= socket.port <= HIGHEST_PORT:
        raise _invalid_report(field, f"protocol {socket.protocol} with port {socket.port} is no socket")
    if len(socket.address) > LONGEST_ADDRESS:
        raise _invalid_report(field, f"an address has more than {LONGEST_ADDRESS} characters")
    address = read_ip(socket.address)
    if address is None:
        raise _invalid_report(field, f"{socket.address!r} is no IP address")
    return slot_of(protocol, socket.port), address


def _process(name: str) -> str:
    """The name of a process as it may stand in a sentence: any program may call itself whatever it likes."""
    if len(name) > LONGEST_PROCESS:
        raise _invalid_report("opened", f"the name of a process has more than {LONGEST_PROCESS} characters")
    return name if name.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in name)


def _facts(message: pb.ReportNodeRequest, before: NodeFacts) -> NodeFacts:
    """What is known of the node after a message; what it does not tell stands."""
    _check_count("reserved", len(message.reserved), MOST_OF_A_MESSAGE)
    ephemeral, kept = before.ephemeral, before.kept
    if message.HasField("ephemeral_range"):
        ephemeral = _checked_bounds(message.ephemeral_range, "ephemeral_range")
    if message.reserved or message.snapshot:
        kept = 0
        for each in message.reserved:
            kept |= span(*_checked_bounds(each, "reserved"))
    return kept_once(_FACTS, NodeFacts(ephemeral, kept, message.reserves), _size_of)


def _size_of(facts: NodeFacts) -> int:
    return facts.kept.bit_length() // 8


def _checked_bounds(numbers: pb.PortRange, field: str) -> tuple[int, int]:
    if not LOWEST_PORT <= numbers.min <= numbers.max <= HIGHEST_PORT:
        raise _invalid_report(field, f"{numbers.min}-{numbers.max} is no range of ports")
    return numbers.min, numbers.max


def _invalid_report(field: str, message: str) -> Refused:
    return Refused(Mistake(Reason.INVALID_REQUEST, field, message))
