"""The agent's one loop: look at the node, tell what changed, wait.

Rules:

* A look that fails is told in a line, and the allocator is told nothing: what it knows stands. The next look comes
  sooner then: most of what fails is a dump that sockets which came and went interrupted.
* After each look, and for each try to reach the allocator, the file `alive` is touched, so that a probe can tell a
  loop that hangs. An allocator that is away is no reason to begin anew.
* Nothing listens: whoever wants to know how agents are asks the allocator.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.netlink import SocketDiagnosis
from agent.processes import ProcessNames
from agent.ranges import read_list, read_range, spans
from agent.report import NodeState, Reporter, Settling, Sockets
from agent.reserving import ReservedPorts
from agent.search import Endpoint
from agent.sockets import UDP, InterruptedDumpError, Run
from agent.stream import Pauses, Stream, StreamEnd, StreamError, Wishes, opened
from hostport.logs import log_event

log = logging.getLogger(__name__)

STEP_SECONDS = 1.0
"""How soon an order to end is followed. Python runs the handler of a signal between two waits."""

AGAIN_SECONDS = 1.0
"""From a look that failed to the next one, doubled each time, and never longer than the interval."""

MOST_SPANS = 16
"""Of the numbers whose connections the kernel is asked for: what lies between them, and is many, it leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """How the agent is run. interval: seconds between two looks. reserved: None without `--reserve`."""

    node: str
    endpoint: Endpoint
    interval: float
    alive: Path | None = None
    reserved: ReservedPorts | None = None


class Agent:
    """See the module."""

    def __init__(self, options: AgentOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._wishes = Wishes()
        self._settling = Settling()
        self._names = ProcessNames()
        self._is_ending = False
        self._reserves = options.reserved is not None

    def stop(self) -> None:
        """Ends `run` soon. May be called by the handler of a signal."""
        self._is_ending = True

    def run(self) -> None:
        """Until `stop` is called."""
        pauses = Pauses()
        self._resume()
        with SocketDiagnosis() as diagnosis:
            while not self._is_ending:
                began = self._clock()
                self._show_alive()
                end = self._stream(diagnosis)
                if not self._is_ending:
                    pause = pauses.after(self._clock() - began, is_refused=end.is_refused)
                    log_event(log, "not connected", level=logging.WARNING, why=end.why, next_in=round(pause, 1))
                    self._rest(pause, _sleep)

    def _stream(self, diagnosis: SocketDiagnosis) -> StreamEnd:
        """Tells a stream of the node until it ends; gives why it did."""
        reporter = Reporter(self._options.node, self._names.of)
        try:
            with opened(self._options.endpoint, lambda: self._is_ending) as (call, link):
                stream = Stream(call, link, reporter, self._wishes)
                failed = 0
                while not self._is_ending:
                    failed = 0 if self._look(diagnosis, stream) else failed + 1
                    self._rest(until_next_look(self._options.interval, failed), stream.wait)
        except StreamError as error:
            return error.end
        return StreamEnd("the agent ends")

    def _look(self, diagnosis: SocketDiagnosis, stream: Stream) -> bool:
        """One look at the node, and what is to be told of it; gives whether the node could be seen."""
        now = self._clock()
        try:
            ephemeral = read_range()
            reserves = self._reserve(ephemeral)
            found = diagnosis.sockets()  # after that, so that of a number which is kept none is taken unseen
            kept = self._others() | (self._upcoming(diagnosis, found) if reserves else frozenset())
            sockets = self._settling.settled(found, ephemeral, now)
            state = NodeState(ephemeral, kept, reserves)
        except (OSError, ValueError, InterruptedDumpError) as error:
            log_event(log, "look failed", level=logging.ERROR, error=f"{type(error).__name__}: {error}")
            return False
        if stream.has_room:  # else later, with what changes until then
            self._tell(stream, sockets, state, now)
        self._show_alive()
        return True

    def _show_alive(self) -> None:
        if self._options.alive:
            self._options.alive.touch()

    def _tell(self, stream: Stream, sockets: Sockets, state: NodeState, now: float) -> None:
        self._names.look(sockets.values())
        for message in stream.reporter.messages(sockets, state, now, asked=self._wishes.is_asked):
            stream.send(message)
        self._wishes.is_asked = False

    def _resume(self) -> None:
        """Reserves again what somebody had stopped before this agent was started."""
        try:
            if self._options.reserved is not None:
                self._options.reserved.resume()
        except OSError as error:
            _log_not_reserved(error)

    def _reserve(self, ephemeral: Run | None) -> bool:
        """Keeps numbers out of outgoing connections, and gives whether it does: it is to, and nothing hinders it.

        That it fails must not keep the node from being told. With each look, since others write the list, too:
        `sysctl --system` does, and what failed is tried again. What was written while somebody stopped it is taken out.
        """
        reserved, wanted = self._options.reserved, self._wishes.wanted
        if reserved is None:
            return False
        stopped = reserved.is_stopped
        if stopped and self._reserves:
            log_event(log, "nothing is reserved any more", level=logging.WARNING, why="--unreserve")
        self._reserves = not stopped
        try:
            if stopped:
                reserved.keep((), (), ephemeral)
            elif wanted is not None and ephemeral is not None:
                reserved.keep(wanted.given, wanted.upcoming, ephemeral)
        except (OSError, ValueError) as error:
            _log_not_reserved(error)
            return False
        return not stopped

    def _upcoming(self, diagnosis: SocketDiagnosis, found: Sockets) -> frozenset[int]:
        """Those of the numbers that may be given next which no outgoing connection can take, and none has.

        found: the open sockets. Connections to a number that is given are its program's own, and do not count.
        """
        if self._wishes.wanted is None:
            return frozenset()
        given, upcoming = self._wishes.wanted
        kept = self._standing() & upcoming
        if not (free := kept - given):
            return kept
        held = diagnosis.connections(spans(free, MOST_SPANS)) - given
        return kept - held - {key.port for key in found if key.protocol == UDP and key.port not in given}

    def _standing(self) -> frozenset[int]:
        """What we keep out of outgoing connections; where the list cannot be read, nothing is known of it."""
        try:
            return self._options.reserved.standing() if self._options.reserved else frozenset()
        except (OSError, ValueError):
            return frozenset()

    def _others(self) -> frozenset[int]:
        """What others keep out of outgoing connections; where the list cannot be read, nothing is known of it."""
        try:
            return self._options.reserved.others() if self._options.reserved else read_list()
        except (OSError, ValueError):
            return frozenset()

    def _rest(self, seconds: float, wait: Callable[[float], bool]) -> None:
        """So many seconds, or until `wait` says that something is wanted, or the end."""
        until = self._clock() + seconds
        while not self._is_ending and (left := until - self._clock()) > 0:
            if wait(min(left, STEP_SECONDS)):
                return


def until_next_look(interval: float, failed: int) -> float:
    """How many seconds the next look is away. failed: how many looks failed since the last that did not."""
    return min(interval, AGAIN_SECONDS * 2 ** (min(failed, 16) - 1)) if failed else interval


def _log_not_reserved(error: Exception) -> None:
    log_event(log, "numbers not reserved", level=logging.ERROR, error=f"{type(error).__name__}: {error}")


def _sleep(seconds: float) -> bool:
    """Waits for nothing but time."""
    time.sleep(seconds)
    return False


def end_by_signals(agent: Agent) -> None:
    """From now on SIGTERM and SIGINT end the agent in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
