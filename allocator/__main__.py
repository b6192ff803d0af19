"""`python -m allocator`: serve, and look after a journal."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from allocator.config import FLAGS, Config, ConfigError
from allocator.journal.contract import JournalError
from allocator.journal.inspection import DamagedJournalError, check, dump, salvage
from allocator.journal.places import acknowledge
from hostport import logs, process
from hostport.flags import add_flags
from hostport.gathered_logs import GatheringHandler
from hostport.supervision import LoopError

log = logging.getLogger("allocator")

SWITCH_SECONDS = 0.0005
"""How long the thread that commits may wait for the interpreter when an fsync is done. Python's 5 ms are ten times an
fsync: whoever waits for the commit waits for that, too."""


def parser() -> argparse.ArgumentParser:
    """The parser of both verbs. The flags of `serve` can also be set by environment variables, as `add_flags` says."""
    program = argparse.ArgumentParser(prog="python -m allocator", description=__doc__)
    commands = program.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the allocator", description="Run the allocator.")
    add_flags(serve, FLAGS, os.environ)
    _add_journal(commands.add_parser("journal", help="look after a journal"))
    return program


def _add_journal(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    for name, what in _ACTIONS.items():
        action = actions.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        action.add_argument("path", type=Path, help="the file of --journal sqlite:PATH")
        if name == "salvage":
            action.add_argument("target", type=Path, help="the new journal, which must not exist")


_ACTIONS = {
    "dump": "print a journal as JSON lines; it may be in use",
    "check": "say what of a journal is sound, and change nothing; it may be in use. Exit status 3: it is damaged",
    "salvage": "make a new journal of what can be read soundly of a damaged one. Exit status 3: something is lost",
    "acknowledge": "tell no more of what was set aside beside a journal; it may be in use",
}

DAMAGED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage, 3 a journal is damaged."""
    program = parser()
    parsed = program.parse_args(arguments)
    try:
        if parsed.command == "journal":
            return _run_journal(parsed)
        config = Config.of(parsed)
    except ConfigError as error:
        program.error(str(error))
    return _serve(config)


def _serve(config: Config) -> int:
    logs.set_up(config.log_level, GatheringHandler(sys.stderr))
    sys.setswitchinterval(SWITCH_SECONDS)
    process.collect_seldom()
    from allocator.app.lifecycle import serve  # noqa: PLC0415 - grpc is not needed to dump a journal

    try:
        uvloop.run(serve(config))
    except LoopError as error:
        if isinstance(error.__cause__, JournalError):  # the environment's fault: no line of the program explains it
            log.critical("cannot serve: %s", error.__cause__)
            return 1
        log.critical("cannot go on: %s", error, exc_info=error.__cause__)
        return 1
    except (JournalError, OSError, RuntimeError) as error:
        log.critical("cannot serve: %s", error)
        return 1
    log.info("stopped")
    return 0


def _run_journal(parsed: argparse.Namespace) -> int:
    try:
        match parsed.action:
            case "dump":
                for record in dump(parsed.path):
                    _say(json.dumps(record, separators=(",", ":")))
            case "check":
                for line in check(parsed.path):
                    _say(line)
            case "salvage":
                rescued = salvage(parsed.path, parsed.target)
                _say(f"{parsed.target} holds {rescued}")
                return 0 if rescued.is_all else DAMAGED
            case "acknowledge":
                renamed = acknowledge(parsed.path)
                for path in renamed:
                    _say(f"acknowledged: it is {path} now")
                if not renamed:
                    _say(f"nothing was set aside beside {parsed.path}")
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's output
        return DAMAGED if isinstance(error, DamagedJournalError) else 1
    return 0


def _say(line: str) -> None:
    print(line)  # noqa: T201 - the command's output


if __name__ == "__main__":
    sys.exit(main())
