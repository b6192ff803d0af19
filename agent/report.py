"""What changed on a node since it was last told, as messages. Pure.

Rules:

* The first report of a stream is a snapshot: whoever listens may know nothing.
* A UDP socket on a number of the ephemeral range is told once it is a minute old: most of these are clients that wait
  for an answer. Those of the first look are told at once: nobody knows how old they are, and an agent that was started
  anew must not take back what the one before it said of servers. Clients among them are gone with the next look.
  Of sockets that share a number the oldest counts, as long as any of those that it shared it with is open. Outside of
  the range they grow old, too: the range may be changed, or unreadable for once.
* A message has a bounded number of sockets, and says whether more of its report follows.
* Silence is a report as well, but not for longer than a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.ranges import runs
from agent.sockets import SCTP, TCP, UDP, OpenSocket, Run, SocketKey
from hostport.contract.limits import LONGEST_PROCESS, MOST_OF_A_MESSAGE
from hostport.v1 import allocator_pb2 as pb

PROTOCOLS = {TCP: pb.PROTOCOL_TCP, UDP: pb.PROTOCOL_UDP, SCTP: pb.PROTOCOL_SCTP}
SETTLED_SECONDS = 60.0
SILENCE_SECONDS = 60.0

Sockets = Mapping[SocketKey, OpenSocket]


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node is like.

    ephemeral: the numbers of outgoing connections; None: not known. reserved: those of them that none has or gets,
    since somebody else keeps them out, or we do before they are given. reserves: whether we keep given ones out.
    """

    ephemeral: Run | None = None
    reserved: frozenset[int] = frozenset()
    reserves: bool = False


class Settling:
    """Leaves out UDP sockets that may be those of clients."""

    def __init__(self) -> None:
        # Of each UDP socket since when it, or one that shared its number, is open. None: nothing was looked at.
        self._since: dict[SocketKey, tuple[float, OpenSocket]] | None = None

    def settled(self, sockets: Sockets, ephemeral: Run | None, now: float) -> dict[SocketKey, OpenSocket]:
        """Those that are to be told, each alone. now: seconds of a clock that never goes back."""
        low, high = ephemeral or (0, -1)
        before, first = (self._since, now) if self._since is not None else ({}, now - SETTLED_SECONDS)
        since: dict[SocketKey, tuple[float, OpenSocket]] = {}
        settled: dict[SocketKey, OpenSocket] = {}
        for key, held in sockets.items():
            if key.protocol == UDP:
                known = before.get(key)
                at = known[0] if known is not None and _is_one_of(known[1], held) else first
                since[key] = at, held
                if low <= key.port <= high and now - at < SETTLED_SECONDS:
                    continue
            settled[key] = OpenSocket(held.uid, held.inode) if held.others else held
        self._since = since
        return settled


def _is_one_of(before: OpenSocket, held: OpenSocket) -> bool:
    """Whether any of the sockets that shared a number is among those that do now."""
    if before.inode == held.inode:
        return True  # as a rule
    return not {before.inode, *before.others}.isdisjoint((held.inode, *held.others))


class Reporter:
    """What one stream was told of a node."""

    def __init__(self, node: str, name_of: Callable[[OpenSocket], str]) -> None:
        """node: its name. name_of: the name of a process that holds a socket; empty where it is not known."""
        self._node = node
        self._name_of = name_of
        self._told: dict[SocketKey, OpenSocket] = {}
        self._state: NodeState | None = None  # None: nothing was told
        self._at = 0.0

    def messages(self, sockets: Sockets, state: NodeState, now: float, *, asked: bool) -> list[pb.ReportNodeRequest]:
        """One report, in parts; nothing where nothing is to be said.

        now: seconds of a clock that never goes back. asked: whether somebody wants a report, be it empty.
        """
        is_first = self._state is None or (bool(self._state.reserved) and not state.reserved)  # no list: not told
        told = {} if is_first else self._told
        opened = [key for key, held in sockets.items() if told.get(key) != held]
        closed = [key for key in told if key not in sockets]
        is_silent = not (opened or closed or is_first or asked or state != self._state)
        if is_silent and now - self._at < SILENCE_SECONDS:
            return []
        parts = self._parts(opened, closed, sockets)
        for each in parts[:-1]:
            each.more = True
        parts[0].snapshot = is_first
        parts[0].node = self._node
        for each in parts:
            each.reserves = state.reserves
        if is_first or state != self._state:
            _write_state(state, parts[0])
        self._told, self._state, self._at = dict(sockets), state, now
        return parts

    def _parts(
        self, opened: Sequence[SocketKey], closed: Sequence[SocketKey], sockets: Sockets
    ) -> list[pb.ReportNodeRequest]:
        """Messages with these sockets; one without any where there are none."""
        parts = []
        for at in range(0, max(len(opened), len(closed), 1), MOST_OF_A_MESSAGE):
            part = pb.ReportNodeRequest()
            for key in opened[at : at + MOST_OF_A_MESSAGE]:
                held = sockets[key]
                process = self._name_of(held)[:LONGEST_PROCESS]
                part.opened.append(_socket(key, uid=held.uid, process=process))
            part.closed.extend(_socket(key) for key in closed[at : at + MOST_OF_A_MESSAGE])
            parts.append(part)
        return parts


def _socket(key: SocketKey, *, uid: int = 0, process: str = "") -> pb.Socket:
    return pb.Socket(protocol=PROTOCOLS[key.protocol], port=key.port, address=key.address, uid=uid, process=process)


def _write_state(state: NodeState, message: pb.ReportNodeRequest) -> None:
    """Ranges are told as a whole; of the reserved ones the first that a message has room for."""
    if state.ephemeral:
        message.ephemeral_range.min, message.ephemeral_range.max = state.ephemeral
    for number, (low, high) in enumerate(runs(state.reserved)):
        if number == MOST_OF_A_MESSAGE:
            break
        message.reserved.add(min=low, max=high)
