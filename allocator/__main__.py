"""`python -m allocator`: serve, and look into a journal."""

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
from allocator.journal.sqlite import dump
from hostport import garbage, logs
from hostport.flags import add_flags
from hostport.supervision import LoopError

log = logging.getLogger("allocator")

SWITCH_SECONDS = 0.0005
"""How long the thread that commits may wait for the interpreter when an fsync is done. Python's 5 ms are ten times an
fsync: whoever waits for the commit waits for that, too."""


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser(prog="python -m allocator", description=__doc__)
    commands = program.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the allocator", description="Run the allocator.")
    add_flags(serve, FLAGS, os.environ)
    journal = commands.add_parser("journal", help="look into a journal").add_subparsers(dest="action", required=True)
    dumping = journal.add_parser("dump", help="print a journal as JSON lines; it may be in use")
    dumping.add_argument("path", type=Path, help="the file of --journal sqlite:PATH")
    return program


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage."""
    program = parser()
    parsed = program.parse_args(arguments)
    try:
        if parsed.command == "journal":
            return _dump(parsed.path)
        config = Config.of(parsed)
    except ConfigError as error:
        program.error(str(error))
    return _serve(config)


def _serve(config: Config) -> int:
    logs.set_up(config.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    garbage.start()
    from allocator.runtime import serve  # noqa: PLC0415 - grpc is not needed to dump a journal

    try:
        uvloop.run(serve(config))
    except LoopError as error:
        log.critical("cannot go on: %s", error, exc_info=error.__cause__)
        return 1
    except (JournalError, OSError, RuntimeError) as error:
        log.critical("cannot serve: %s", error)
        return 1
    log.info("stopped")
    return 0


def _dump(path: Path) -> int:
    try:
        for record in dump(path):
            print(json.dumps(record, separators=(",", ":")))  # noqa: T201 - the command's output
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except JournalError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - as above
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
