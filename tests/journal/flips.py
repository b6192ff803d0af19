"""A journal in use, copied as a crash leaves it, and one bit of each copy changed: what the next start makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, State
from allocator.journal.contract import Answer, Drop, Entry, JournalVersionError, Kept, Put
from allocator.journal.sqlite import SqliteJournal

NAME = "journal.db"


@dataclass(frozen=True, slots=True)
class Copied:
    """The folder as a crash left it, what was acknowledged by then, and every claim that ever was."""

    folder: Path
    kept: Kept
    claims: frozenset[Claim]


def claim(number: int) -> Claim:
    return Claim(
        id=ClaimId(f"{number:032x}"),
        owner=Owner(kind="Relay", namespace="media", name=f"relay-{number}"),
        state=State.LEASED,
        ports=(ClaimPort(name="media", host_port=10000 + number),),
        created=float(number),
        expires=1e9 + number,
    )


async def copied(folder: Path, count: int) -> Copied:
    """`count` claims in commits of different sizes, some of them ended again. A checkpoint half way: so a part of it is
    in the database alone, and a part in the WAL alone."""
    claims, random = [claim(n) for n in range(count)], Random(1)
    journal = SqliteJournal(folder / "live" / NAME).open_now()
    at, has_checkpoint = 0, False
    while at < count:
        some = range(at, min(at + random.randrange(1, 6), count))
        entries: list[Entry] = []
        for n in some:
            entries += [Put(claims[n]), Answer(f"request-{n}", b"digest", claims[n].id, bytes([n % 256]) * 90)]
        if random.random() < 0.3:
            entries.append(Drop(claims[max(0, at - 5)].id, float(at)))
        assert await journal.record(entries)
        at = some.stop
        if at > count // 2 and not has_checkpoint:
            has_checkpoint = True
            journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    crashed = shutil.copytree(folder / "live", folder / "crashed")
    journal.close()
    kept, _ = read(shutil.copytree(crashed, folder / "whole"))
    return Copied(crashed, kept, frozenset(claims))


def read(folder: Path) -> tuple[Kept, bool]:
    """What the next start finds, and whether it tells of damage."""
    journal = SqliteJournal(folder / NAME)
    try:
        journal.open_now()
        return journal.load(), bool(journal.set_aside)
    finally:
        journal.close()


def flipped(source: Copied, target: Path, part: str, bit: int) -> Path:
    """A copy with one bit of a file changed. `part`: "" the database, "-wal" the WAL."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source.folder, target)
    path = target / (NAME + part)
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return target


@dataclass(slots=True)
class Outcomes:
    """Of copies: how many were whole at the next start, how many told of damage, and what of it was lost."""

    copies: int = 0
    whole: int = 0
    told: int = 0
    claims_lost: int = 0
    most_lost: int = 0
    silent: int = 0
    wrong: int = 0


def outcomes(source: Copied, target: Path, part: str, bits: Iterable[int]) -> Outcomes:
    """Of one copy for each bit."""
    found = Outcomes()
    for bit in bits:
        found.copies += 1
        try:
            kept, is_told = read(flipped(source, target, part, bit))
        except JournalVersionError:
            found.told += 1  # it ends, and says why
            continue
        lost = len(set(source.kept.claims) - set(kept.claims))
        found.told += is_told
        found.whole += not is_told
        found.claims_lost += lost
        found.most_lost = max(found.most_lost, lost)
        found.silent += kept != source.kept and not is_told
        found.wrong += not set(kept.claims) <= source.claims
    return found


def some_bits(source: Copied, part: str, count: int, *, seed: int) -> list[int]:
    size = (source.folder / (NAME + part)).stat().st_size
    random = Random(seed)
    return [random.randrange(8 * size) for _ in range(count)]
