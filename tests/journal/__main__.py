"""`make flips`: changes one bit of each of many copies of a journal, and prints what came of them as a table."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from .flips import NAME, copied, outcomes, some_bits

CLAIMS, COPIES = 622, 200


def main() -> int:
    """Exit status: 1 if anything was lost or wrong in silence."""
    logging.disable(logging.CRITICAL)
    say("| one bit changed in | copies | sound: nothing depends on the bit | told, set aside | most claims lost of"
        f" {CLAIMS} | lost in silence | wrong |")  # fmt: skip
    say("|---|---|---|---|---|---|---|")
    failures = 0
    for knows_last in (True, False):
        with tempfile.TemporaryDirectory(prefix="hostport-flips-") as folder:
            source = asyncio.run(copied(Path(folder), CLAIMS))
            if not knows_last:
                (source.folder / f"{NAME}.lock").unlink()
            for part, name in (("", "the database"), ("-wal", "the WAL")):
                found = outcomes(source, Path(folder) / "copy", part, some_bits(source, part, COPIES, seed=7))
                where = name if knows_last else f"{name}, `PATH.lock` lost"
                say(
                    f"| {where} | {found.copies} | {found.whole} | {found.told} | {found.most_lost} | {found.silent} | {found.wrong} |"
                )
                failures += found.silent + found.wrong
    return 1 if failures else 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the command's output


if __name__ == "__main__":
    sys.exit(main())
