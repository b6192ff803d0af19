"""Programs start on their numbers while connections come and go: run in a network namespace of its own.

Prints how many of 50 numbers were taken by an outgoing connection, as JSON: before they are reserved, and afterwards.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path

from agent.ranges import read_list, read_range
from agent.reserving import ReservedPorts
from testing.loopback import bring_loopback_up

DOOR = ("127.0.0.1", 10999)
NUMBERS = range(45000, 45050)
OPEN, A_SECOND = 6000, 5000
RESET = struct.pack("ii", 1, 0)  # no number waits for stray packets


def churn() -> None:
    """Connects `A_SECOND` times a second for ever, with `OPEN` connections at a time; says when it is at that."""
    door = socket.create_server(DOOR, backlog=4096)
    threading.Thread(target=_take, args=(door,), daemon=True).start()
    held, count, since = deque[socket.socket](), 0, time.monotonic()
    while True:
        client = socket.create_connection(DOOR)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        held.append(client)
        count += 1
        if len(held) > OPEN:
            held.popleft().close()
        if count == OPEN:
            print("open", flush=True)  # noqa: T201 - what the parent waits for
        time.sleep(max(0.0, since + count / A_SECOND - time.monotonic()))


def _take(door: socket.socket) -> None:
    taken = deque[socket.socket]()
    while True:
        taken.append(door.accept()[0])
        if len(taken) > OPEN + 2000:
            taken.popleft().close()


def in_vain() -> int:
    """How many programs find their number taken."""
    taken = 0
    with ExitStack() as doors:
        for number in NUMBERS:
            try:
                doors.enter_context(socket.create_server(("", number)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken += 1
    return taken


def main() -> None:
    """Churns in a process of its own, and starts programs meanwhile."""
    bring_loopback_up()
    churning = subprocess.Popen([sys.executable, __file__, "churn"], stdout=subprocess.PIPE, text=True)
    try:
        assert churning.stdout is not None
        churning.stdout.readline()
        before = in_vain()
        ReservedPorts(Path(sys.argv[1])).keep((), NUMBERS, read_range())
        time.sleep(2 * OPEN / A_SECOND)  # until those that have one are closed
        after = [in_vain() for _ in range(3)]
        print(json.dumps({"before": before, "after": after, "reserved": len(read_list())}))  # noqa: T201 - the answer
    finally:
        churning.kill()


if __name__ == "__main__":
    churn() if sys.argv[1:] == ["churn"] else main()
