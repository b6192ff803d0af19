"""A real allocator on a disk that is locked, full, read-only or broken: it waits, says why, and has lost nothing.

A disk that is full or read-only is a small file system, which needs root; a broken one needs a C compiler.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from crash.environment import FULL, READ_ONLY, Disk

from allocator.journal.contract import Put
from allocator.journal.sqlite import SqliteJournal
from allocator.journal.wal import PAGE_SIZE

from .flips import NAME, claim

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = tuple(map(claim, range(30)))
DEADLINE = 20.0
SECONDS = float(os.environ.get("DISK_SECONDS", "1.5"))
"""How long each fault lasts: `DISK_SECONDS=30` for the table of the documents."""


async def crashed(folder: Path) -> Path:
    """A journal with all of `CLAIMS` in its WAL, as a kill leaves it."""
    journal = SqliteJournal(folder / "source" / NAME).open_now()
    for each in CLAIMS:
        await journal.record([Put(each)])
    copy = shutil.copytree(folder / "source", folder / "copy")
    journal.close()
    return copy


@contextmanager
def allocator(journal: Path, env: Mapping[str, str]) -> Iterator[Callable[[str], str]]:
    """Serves from it; what it gives answers GET of a path."""
    command = [sys.executable, "-m", "allocator", "serve", "--listen=127.0.0.1:0", "--http=127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, f"--journal=sqlite:{journal}"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
    )
    assert process.stderr is not None
    try:
        found = next(
            match
            for line in process.stderr
            if (match := re.search(r"listening on grpc \S+, http ([^\s\"]+) from", line))
        )

        def get(path: str) -> str:
            try:
                with urllib.request.urlopen(f"http://{found[1]}{path}", timeout=30) as response:
                    text: str = response.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read().decode()
            return text

        yield get
    finally:
        process.kill()
        process.communicate()


def wait_for(get: Callable[[str], str], words: str) -> None:
    ends = time.monotonic() + DEADLINE
    while words not in (told := get("/readyz?verbose")):
        assert time.monotonic() < ends, told
        time.sleep(0.05)


async def whole(folder: Path) -> Path:
    """A journal with all of `CLAIMS` in its database, as an orderly stop leaves it."""
    journal = SqliteJournal(folder / "copy" / NAME).open_now()
    for each in CLAIMS:
        await journal.record([Put(each)])
    journal.close()
    return folder / "copy"


@contextmanager
def locked(place: Path, _: ExitStack) -> Iterator[dict[str, str]]:
    with closing(sqlite3.connect(place / NAME, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield {}


@contextmanager
def broken(place: Path, _: ExitStack) -> Iterator[dict[str, str]]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library, flag = place.parent / "eio.so", place.parent / "broken"
    source = Path(__file__).with_name("eio.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    flag.touch()
    yield {"LD_PRELOAD": str(library), "EIO_NAME": NAME, "EIO_WHILE": str(flag)}
    flag.unlink()


@contextmanager
def broken_in_one_place(place: Path, stack: ExitStack) -> Iterator[dict[str, str]]:
    with broken(place, stack) as env:
        yield {**env, "EIO_AT": "4096"}


FAULTS = {
    "locked": (crashed, locked, "database is locked"),
    "broken": (crashed, broken, "journal failed: "),
    "broken in one place": (whole, broken_in_one_place, "Input/output error"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_start_waits_for_what_is_in_the_way_and_loses_nothing(tmp_path: Path, fault: str) -> None:
    left, hold, words = FAULTS[fault]
    place = await left(tmp_path)
    with ExitStack() as stack:
        during = ExitStack()
        env = during.enter_context(hold(place, stack))
        get = stack.enter_context(allocator(place / NAME, env))
        wait_for(get, words)
        await asyncio.sleep(SECONDS)
        assert get("/healthz") == "ok\n"
        assert "[-]journal failed" in get("/readyz?verbose")
        during.close()
        wait_for(get, "readyz check passed")
        assert 'hostport_claims{state="LEASED"} 30.0' in get("/metrics")
    assert [each.name for each in place.iterdir() if "corrupt" in each.name] == []


async def said(line: Sequence[str], env: Mapping[str, str]) -> tuple[int | None, str]:
    """The exit status of a program, and what it wrote to stderr."""
    ran = await asyncio.create_subprocess_exec(*line, env=env, cwd=ROOT, stdout=DEVNULL, stderr=PIPE)
    _, told = await ran.communicate()
    return ran.returncode, told.decode()


@pytest.mark.parametrize("command", ["check", "dump"])
async def test_what_the_disk_does_not_give_is_not_called_damaged(tmp_path: Path, command: str) -> None:
    place = await whole(tmp_path)
    line = [sys.executable, "-m", "allocator", "journal", command, str(place / NAME)]
    with ExitStack() as stack:
        with closing(sqlite3.connect(place / NAME)) as reader:
            (page,) = reader.execute("SELECT rootpage FROM sqlite_master WHERE name = 'claims'").fetchone()
        env = {**os.environ, **stack.enter_context(broken(place, stack)), "EIO_AT": str((page - 1) * PAGE_SIZE)}
        code, told = await said(line, env)
    assert (code, "cannot be read" in told, "is damaged" in told) == (1, True, False), told
    assert (await said(line, os.environ))[0] == 0


@pytest.mark.parametrize("kind", [FULL, READ_ONLY])
async def test_a_full_or_read_only_disk_at_the_start_loses_nothing(tmp_path: Path, kind: str) -> None:
    source = await crashed(tmp_path)
    disk = Disk(tmp_path)
    try:
        if kind not in disk.faults:
            pytest.skip("a small file system cannot be mounted here")
        for each in source.iterdir():
            if not each.name.endswith("-shm"):  # so that SQLite has to make it
                shutil.copy(each, disk.folder)
        with ExitStack() as stack:
            async with disk.fault(kind):
                get = stack.enter_context(allocator(disk.journal, {}))
                wait_for(get, "[-]journal failed: ")
                await asyncio.sleep(SECONDS)
                assert get("/healthz") == "ok\n"
                assert "[-]journal failed" in get("/readyz?verbose")
            wait_for(get, "readyz check passed")
            assert 'hostport_claims{state="LEASED"} 30.0' in get("/metrics")
        assert [each.name for each in disk.folder.iterdir() if "corrupt" in each.name] == []
    finally:
        disk.close()
