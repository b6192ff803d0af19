"""The command line: `python -m agent`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.app import Agent, AgentOptions, end_by_signals
from agent.ranges import NETWORK, read_range
from agent.reserving import ReservedPorts
from agent.search import Endpoint
from hostport import logs
from hostport.flags import ALSO_TRUST, Address, Flag, add_flags, address, duration, log_level, optional_file


def _interval(text: str) -> float:
    seconds = duration(text)
    if not 1 <= seconds <= 60:
        raise ValueError(f"{text!r} is not in 1s..60s")
    return seconds


def _replicas(text: str) -> Address | None:
    return address(text) if text else None


FLAGS = (
    Flag("node", "", "name of the Node that the agent runs on"),
    Flag("allocator", "127.0.0.1:50052", "where the allocator takes tokens", address),
    Flag("allocator-replicas", "", "HOST:PORT of every allocator: reports go to the one that serves", _replicas),
    Flag("allocator-ca", "", "trust the allocator's certificate by this CA file; plain text without it", optional_file),
    ALSO_TRUST,
    Flag("token-file", "", "token of the agent's ServiceAccount, read for each connection", optional_file),
    Flag("interval", "10s", "time between two looks at the node, 1s to 60s", _interval),
    Flag("alive-file", "", "file that is touched after each look", optional_file),
    Flag("reserve", False, "keep given numbers out of outgoing connections; needs the right to write the list"),
    Flag("unreserve", False, "take out what --reserve has put in, have agents that run put in nothing more, and end"),
    Flag("reserved-state", "/run/hostport/reserved", "file with what --reserve has put in", Path),
    Flag("reserved-ports-file", str(NETWORK / "ip_local_reserved_ports"), "the kernel's list", Path),
    Flag("log-level", "info", "debug, info, warning or error", log_level),
)


def build_parser() -> argparse.ArgumentParser:
    """The flags. One that is not given has the value of its environment variable, if any."""
    parser = argparse.ArgumentParser(
        prog="python -m agent", description="Tells the allocator which sockets are open on a node."
    )
    add_flags(parser, FLAGS, os.environ)
    return parser


def agent_options(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> AgentOptions:
    """Leaves by `parser.error` where flags do not go together."""
    if not flags.node:
        parser.error("--node is missing: it names the Node that the agent runs on")
    if flags.token_file and not flags.allocator_ca:
        parser.error("--token-file needs --allocator-ca: a token is shown to nobody who is not known")
    if flags.also_trust and not flags.allocator_ca:
        parser.error("--also-trust names more authorities than --allocator-ca: set that as well")
    return AgentOptions(
        node=flags.node,
        endpoint=Endpoint(
            target=flags.allocator_replicas or flags.allocator,
            name=flags.allocator,
            ca=flags.allocator_ca,
            also=flags.also_trust,
            token_file=flags.token_file,
        ),
        interval=flags.interval,
        alive=flags.alive_file,
        reserved=ReservedPorts(flags.reserved_state, flags.reserved_ports_file) if flags.reserve else None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program with these arguments, by default those of the process. Returns its exit code."""
    parser = build_parser()
    flags = parser.parse_args(arguments)
    logs.set_up(flags.log_level)
    log = logging.getLogger("agent")
    try:
        if flags.unreserve:
            reserved = ReservedPorts(flags.reserved_state, flags.reserved_ports_file)
            reserved.stop()
            reserved.keep((), (), read_range())
            return 0
        agent = Agent(agent_options(parser, flags))
        end_by_signals(agent)
        agent.run()
    except (OSError, ValueError) as error:
        log.error("cannot go on: %s", error)  # noqa: TRY400 - the environment's fault, no trace
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
