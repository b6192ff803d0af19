"""What a journal's file looks like inside: tables, claims as JSON in them, and the proof that it is whole.

Longer than 350 lines because tables, records and checksums are the format of one file, written and read together.

Rules:

* A claim is one line of JSON. Absent keys are zero values, so that a record stays short and old ones stay readable.

* Each row carries a checksum of what it says (`crc`).
* The one row of `journal` is written with every commit: the number of the commit (its predecessor's and one), how many
  claims and answers there are, the sum of their checksums, the allocator's clock, and a checksum over all of that. So
  a row that was changed, lost or brought back from an earlier time is noticed, whatever became of the file.
* Rows are numbered as they come, so that what is new goes to the last page: a random key in a B-tree would dirty a page
  of its own for each row of a commit. Measured: 15 µs of CPU for a claim with its answer instead of 61.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from sys import intern
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import replace

from allocator.core.candidates import ANYWHERE, Constraints, NodeName, Requirement, Term, Toleration
from allocator.core.claims import Bounds, Claim, ClaimId, ClaimPort, Owner, PodUid, State, bounds
from allocator.core.kept import SizedCache
from allocator.core.ports import Protocol
from allocator.journal.contract import MOST_FORGOTTEN, Answer, Drop, Entry, Forget, Put
from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT, MOST_NUMBERS

APPLICATION_ID = 0x48505254  # "HPRT", in the header of the file: see file(1)
SCHEMA_VERSION = 2
FIRST_VERSION = 1
"""The oldest one that is read, and upgraded: without checksums."""

_TOTALS = ("number", "claims", "answers", "digest", "crc")
_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE journal (identity TEXT NOT NULL);
CREATE TABLE claims (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE answers (
    seq INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL, digest BLOB NOT NULL, claim_id TEXT NOT NULL, response BLOB NOT NULL, ended REAL
);
CREATE INDEX answers_by_end ON answers (ended) WHERE ended IS NOT NULL;
"""
_CHECKSUMS = (
    *(f"ALTER TABLE journal ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0" for name in _TOTALS),
    "ALTER TABLE journal ADD COLUMN clock REAL",
    "ALTER TABLE claims ADD COLUMN crc INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE answers ADD COLUMN crc INTEGER NOT NULL DEFAULT 0",
)
_FADED = "FROM answers WHERE ended < ? ORDER BY ended, seq LIMIT ?"


# -- a claim as a line of JSON


class _Port(msgspec.Struct, omit_defaults=True, gc=False):
    """A port as it is written. What is a zero value is left out."""

    protocol: Protocol
    host_port: int
    container: str = ""
    name: str = ""
    container_port: int = 0
    host_ip: str = ""
    appeared: bool = False
    count: int = 1  # left out for one number, so that the record is what it was before there were blocks


class _Owner(msgspec.Struct, omit_defaults=True, gc=False):
    """An owner likewise."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    generate_name: str = ""
    uid: str = ""
    controller_uid: str = ""
    description: str = ""


_ANYWHERE = msgspec.Raw(b"")
"""Left out, as it is the default."""


class _Record(msgspec.Struct, omit_defaults=True, gc=False):
    """A claim likewise. Its constraints are read for themselves: there are many claims and few constraints."""

    id: str
    state: State
    owner: _Owner
    ports: list[_Port]
    created: float
    constraints: msgspec.Raw = _ANYWHERE
    node: str | None = None
    expires: float | None = None
    pod_uid: str | None = None
    settled_at: float | None = None
    range: Bounds | None = None
    priority: int = 0
    may_preempt: bool = False
    is_terminating: bool = False
    own_network: bool = False
    warnings: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Record).decode


def encode_claim(claim: Claim) -> str:
    """One line of JSON."""
    owner = claim.owner
    record = _Record(
        claim.id,
        claim.state,
        _Owner(
            owner.kind,
            owner.namespace,
            owner.name,
            owner.generate_name,
            owner.uid,
            owner.controller_uid,
            owner.description,
        ),
        [
            _Port(p.protocol, p.host_port, p.container, p.name, p.container_port, p.host_ip, p.appeared, p.count)
            for p in claim.ports
        ],
        claim.created,
        _ANYWHERE if claim.constraints is ANYWHERE else msgspec.Raw(_encode(_plain(claim.constraints))),
        claim.node,
        claim.expires,
        claim.pod_uid,
        claim.settled_at,
        claim.range,
        claim.priority,
        claim.may_preempt,
        claim.is_terminating,
        claim.own_network,
        claim.warnings,
    )
    return _encode(record).decode()


def decode_claim(text: str | bytes) -> Claim:
    """The claim that a line stands for. What many claims have alike is one object, as in those that were asked for.

    Raises:
        ValueError: the text is not what encode_claim writes.

    """
    try:
        record = _decode(text)
        return Claim(
            id=ClaimId(record.id),
            owner=Owner.kept_once(record.owner),
            state=record.state,
            ports=tuple(map(_decode_port, record.ports)),
            created=record.created,
            constraints=_decode_constraints(bytes(record.constraints)) if record.constraints else ANYWHERE,
            node=None if record.node is None else NodeName(intern(record.node)),
            expires=record.expires,
            settled_at=record.settled_at,
            pod_uid=None if record.pod_uid is None else PodUid(record.pod_uid),
            range=None if record.range is None else bounds(*record.range),
            priority=record.priority,
            may_preempt=record.may_preempt,
            is_terminating=record.is_terminating,
            own_network=record.own_network,
            warnings=intern(record.warnings),
        )
    except (msgspec.DecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a claim record: {error!r}") from error


def _decode_port(port: _Port) -> ClaimPort:
    if not LOWEST_PORT <= port.host_port <= HIGHEST_PORT:
        raise ValueError(f"{port.host_port} is no port")
    if not (1 <= port.count <= MOST_NUMBERS and port.host_port + port.count - 1 <= HIGHEST_PORT):
        raise ValueError(f"{port.count} numbers from {port.host_port} are no block")
    return ClaimPort(
        container=intern(port.container),
        name=intern(port.name),
        protocol=port.protocol,
        container_port=port.container_port,
        host_port=port.host_port,
        host_ip=intern(port.host_ip),
        appeared=port.appeared,
        count=port.count,
    )


def _plain(constraints: Constraints) -> dict[str, Any]:
    record = {
        "node_name": constraints.node_name,
        "selector": dict(constraints.selector),
        "affinity": [
            {
                "expressions": [[r.key, r.operator, *r.values] for r in term.expressions],
                "fields": [[r.key, r.operator, *r.values] for r in term.fields],
            }
            for term in constraints.affinity
        ],
        "tolerations": [[t.key, t.operator, t.value, t.effect] for t in constraints.tolerations],
    }
    return {key: value for key, value in record.items() if value}


_KEPT: SizedCache[bytes, Constraints] = SizedCache(16 << 20)
"""Constraints by their records: many claims have the same."""


def _decode_constraints(text: bytes) -> Constraints:
    constraints = _KEPT.get(text)
    if constraints is None:
        constraints = _constraints_of_record(text)
        _KEPT.put(text, constraints, len(text) + constraints.weight)
    return constraints


def _constraints_of_record(text: bytes) -> Constraints:
    record = json.loads(text)
    return Constraints(
        node_name=NodeName(record["node_name"]) if "node_name" in record else None,
        selector=tuple(sorted(record.get("selector", {}).items())),
        affinity=tuple(
            Term(
                expressions=tuple(_requirement_of_parts(parts) for parts in term["expressions"]),
                fields=tuple(_requirement_of_parts(parts) for parts in term["fields"]),
            )
            for term in record.get("affinity", ())
        ),
        tolerations=tuple(
            Toleration(key=key, operator=operator, value=value, effect=effect)
            for key, operator, value, effect in record.get("tolerations", ())
        ),
    )


def _requirement_of_parts(parts: list[str]) -> Requirement:
    return Requirement(key=parts[0], operator=parts[1], values=tuple(parts[2:]))


# -- checksums, and where the rows are


def claim_crc(claim_id: str, body: str | bytes) -> int:
    """The checksum of a claim's row."""
    return crc32(body.encode() if isinstance(body, str) else body, crc32(claim_id.encode()))


def answer_crc(request_id: str, digest: bytes, claim_id: str, response: bytes, ended: float | None) -> int:
    """The checksum of an answer's row."""
    crc = crc32(b"\0".join((request_id.encode(), digest, claim_id.encode(), response)))
    return crc if ended is None else _ended_crc(crc, ended)


_pack_end = struct.Struct("<d").pack


def _ended_crc(crc: int, ended: float) -> int:
    """The checksum of an answer that had `crc`, once its claim has ended."""
    return crc32(_pack_end(ended), crc)


class Totals(msgspec.Struct, gc=False):
    """The row of `journal`: see the module. `clock`: what the allocator's clock read; None: it has none."""

    identity: str
    number: int = 0
    claims: int = 0
    answers: int = 0
    digest: int = 0
    clock: float | None = None

    @property
    def crc(self) -> int:
        """The checksum over all of it; the version of the schema is in it, so that a header cannot lie about it."""
        text = f"{SCHEMA_VERSION} {self.identity} {self.number} {self.claims} {self.answers} {self.digest}"
        return crc32(b"" if self.clock is None else _pack_end(self.clock), crc32(text.encode()))

    def row(self) -> tuple[int, int, int, int, float | None, int]:
        return self.number, self.claims, self.answers, self.digest, self.clock, self.crc


def read_totals(connection: sqlite3.Connection) -> Totals:
    """The row of `journal`.

    Raises:
        ValueError: it is not as it was written.
        sqlite3.Error: it cannot be read.

    """
    rows = connection.execute(
        "SELECT identity, number, claims, answers, digest, clock, crc FROM journal LIMIT 2"
    ).fetchall()
    if len(rows) != 1:
        raise ValueError(f"it has {len(rows)} identities, not one")
    *fields, crc = rows[0]
    totals = Totals(*fields)
    try:
        is_whole = totals.crc == crc
    except (TypeError, AttributeError, ValueError, struct.error):
        is_whole = False
    if not is_whole:
        raise ValueError("the checksum of its last commit is wrong")
    return totals


class Rows:
    """Where the rows of each claim are, in memory: for a claim, and for each of its answers that has not ended.

    A row is one int, its number and its checksum: a tuple for each would take 25 MB at 150,000 claims.
    """

    def __init__(self) -> None:
        self.claims: dict[str, int] = {}
        self.answers: dict[str, tuple[int, ...]] = {}

    def add_answer(self, claim_id: str, row: int) -> None:
        self.answers[claim_id] = (*self.answers.get(claim_id, ()), row)


def row_of(seq: int, crc: int) -> int:
    """A row as `Rows` keeps it."""
    return seq << 32 | crc


def _seq(row: int) -> int:
    return row >> 32


def _crc(row: int) -> int:
    return row & 0xFFFF_FFFF


class Tables:
    """The tables of an open journal. After `write` a commit follows, or `roll_back`, and then the next `write`."""

    def __init__(self, connection: sqlite3.Connection, totals: Totals, rows: Rows) -> None:
        self._connection = connection
        self._rows = rows
        self._totals = totals
        self._durable = replace(totals)
        self._touched: dict[str, _Touched] = {}  # by this transaction, by the id of the claim

    @property
    def identity(self) -> str:
        return self._totals.identity

    @property
    def latest(self) -> int:
        """Of the commit that is under way, or that was the last."""
        return self._totals.number

    def write(self, entries: Iterable[Entry], clock: float | None) -> None:
        """Puts entries into a transaction, which is committed or rolled back by whoever called.

        Raises:
            sqlite3.Error: they cannot be put there.

        """
        if not self._connection.in_transaction:  # what was not rolled back was committed
            self._touched.clear()
            self._durable = replace(self._totals)
        self._connection.execute("BEGIN IMMEDIATE")  # last, since it fails where somebody has locked the file
        for entry in entries:
            self.apply(entry)
        self._finish(clock)

    def _finish(self, clock: float | None) -> None:
        """Ends what is applied: numbers the commit, and sums up what there is after it."""
        self._totals.number += 1
        self._totals.clock = clock
        self._connection.execute(
            "UPDATE journal SET number = ?, claims = ?, answers = ?, digest = ?, clock = ?, crc = ?",
            self._totals.row(),
        )

    def roll_back(self) -> None:
        """What is known in memory of the rows is read again, of those that the transaction was about."""
        self._totals = replace(self._durable)
        if self._connection.in_transaction:
            self._connection.rollback()
        execute, rows = self._connection.execute, self._rows
        for claim_id, touched in self._touched.items():
            rows.claims.pop(claim_id, None)
            rows.answers.pop(claim_id, None)
            for seq in sorted(touched.claims):
                for found in execute("SELECT crc FROM claims WHERE seq = ? AND id = ?", (seq, claim_id)):
                    rows.claims[claim_id] = row_of(seq, *found)
            for seq in sorted(touched.answers):
                where = "seq = ? AND claim_id = ? AND ended IS NULL"
                for found in execute(f"SELECT crc FROM answers WHERE {where}", (seq, claim_id)):  # noqa: S608 - ours
                    rows.add_answer(claim_id, row_of(seq, *found))
        self._touched.clear()

    def apply(self, entry: Entry) -> None:
        """Puts an entry into the transaction that is open."""
        match entry:
            case Put(claim):
                self._put(claim.id, encode_claim(claim))
            case Answer():
                self._answer(entry)
            case Drop(claim_id, at):
                self._drop(claim_id, at)
            case Forget(before):
                self._forget(before)

    def _put(self, claim_id: str, body: str) -> None:
        touched, rows, totals = self._touch(claim_id), self._rows, self._totals
        old, crc = rows.claims.get(claim_id), claim_crc(claim_id, body)
        values = (None if old is None else _seq(old), claim_id, body, crc)
        seq = _row_id(self._connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", values))
        totals.claims += old is None
        totals.digest += crc - (0 if old is None else _crc(old))
        rows.claims[claim_id] = row_of(seq, crc)
        touched.claims.add(seq)

    def _answer(self, answer: Answer) -> None:
        touched = self._touch(answer.claim_id)
        values = (answer.request_id, answer.digest, answer.claim_id, answer.response, answer.ended)
        crc = answer_crc(*values)
        seq = _row_id(self._connection.execute("INSERT INTO answers VALUES (NULL, ?, ?, ?, ?, ?, ?)", (*values, crc)))
        self._totals.answers += 1
        self._totals.digest += crc
        if answer.ended is None:
            self._rows.add_answer(answer.claim_id, row_of(seq, crc))
            touched.answers.add(seq)

    def _drop(self, claim_id: str, at: float) -> None:
        self._touch(claim_id)
        execute, totals = self._connection.execute, self._totals
        row = self._rows.claims.pop(claim_id, None)
        if row is not None:
            execute("DELETE FROM claims WHERE seq = ?", (_seq(row),))
            totals.claims -= 1
            totals.digest -= _crc(row)
        for row in self._rows.answers.pop(claim_id, ()):
            crc = _ended_crc(_crc(row), at)
            execute("UPDATE answers SET ended = ?, crc = ? WHERE seq = ?", (at, crc, _seq(row)))
            totals.digest += crc - _crc(row)

    def _forget(self, before: float) -> None:
        which = (before, MOST_FORGOTTEN)
        execute = self._connection.execute
        ((count, crcs),) = execute(f"SELECT count(*), sum(crc) FROM (SELECT crc {_FADED})", which)  # noqa: S608 - ours
        if count:
            execute(f"DELETE FROM answers WHERE seq IN (SELECT seq {_FADED})", which)  # noqa: S608 - ours
            self._totals.answers -= count
            self._totals.digest -= crcs

    def _touch(self, claim_id: str) -> _Touched:
        """Notes the rows of a claim as they are before it changes; the new ones are added by who makes them."""
        touched = self._touched.get(claim_id)
        if touched is None:
            touched = self._touched[claim_id] = _Touched()
            if claim_id in self._rows.claims:
                touched.claims.add(_seq(self._rows.claims[claim_id]))
            touched.answers.update(map(_seq, self._rows.answers.get(claim_id, ())))
        return touched


@dataclass(slots=True)
class _Touched:
    """The rows that a claim and its answers had or got."""

    claims: set[int] = field(default_factory=set)
    answers: set[int] = field(default_factory=set)


def _row_id(cursor: sqlite3.Cursor) -> int:
    if cursor.lastrowid is None:
        raise sqlite3.InternalError("an insert gave no row id")
    return cursor.lastrowid


def lay_out(connection: sqlite3.Connection, identity: str, entries: Iterable[Entry], clock: float | None) -> None:
    """Makes an empty database a journal, which begins with these entries."""
    connection.executescript(_SCHEMA)
    for statement in _CHECKSUMS:
        connection.execute(statement)
    connection.execute("INSERT INTO journal (identity) VALUES (?)", (identity,))
    Tables(connection, Totals(identity), Rows()).write(entries, clock)
    connection.execute("COMMIT")


def upgrade(connection: sqlite3.Connection) -> None:
    """Makes a journal of the first version one of this version, in one transaction. Nothing else of it changes."""
    connection.create_function("claim_crc", 2, claim_crc, deterministic=True)
    connection.create_function("answer_crc", 5, answer_crc, deterministic=True)
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    try:
        for statement in _CHECKSUMS:
            execute(statement)
        execute("UPDATE claims SET crc = claim_crc(id, body)")
        execute("UPDATE answers SET crc = answer_crc(request_id, digest, claim_id, response, ended)")
        ((identity,),) = execute("SELECT identity FROM journal")
        ((claims, of_claims),) = execute("SELECT count(*), ifnull(sum(crc), 0) FROM claims")
        ((answers, of_answers),) = execute("SELECT count(*), ifnull(sum(crc), 0) FROM answers")
        totals = Totals(identity, claims=claims, answers=answers, digest=of_claims + of_answers)
        tables = Tables(connection, totals, Rows())
        tables._finish(None)  # noqa: SLF001 - nothing is written but the totals
        execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise
