"""The strip of a node: how many numbers of a range are held, by kind, in buckets of equal width.

A number counts once, whatever its protocols: as the first of `KINDS` that holds it. So a strip is at most as high as
its bucket is wide. `Board` has the strips of all nodes and counts anew only what changed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim, State
from allocator.core.ledger import Ledger
from allocator.core.ports import span
from allocator.slices import in_slices
from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT

OUTSIDER = "OUTSIDER"
KINDS = (OUTSIDER, State.LEASED.value, State.BOUND.value, State.CONFIRMED.value, State.RESERVED.value)
"""What holds a number: Pods that never asked us, and the states of claims. Those that are not there yet come last."""

MOST_BUCKETS = 128
WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TENTHS = 10

_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


def kind_of(claim: Claim) -> str:
    return OUTSIDER if claim.unmanaged else claim.state.value


@dataclass(frozen=True, slots=True)
class Axis:
    """The numbers [low, high] in buckets of a round width."""

    low: int = LOWEST_PORT
    high: int = HIGHEST_PORT

    @property
    def width(self) -> int:
        numbers = self.high - self.low + 1
        return next(width for width in WIDTHS if numbers <= width * MOST_BUCKETS)

    @property
    def buckets(self) -> int:
        return -(-(self.high - self.low + 1) // self.width)

    @property
    def numbers(self) -> int:
        """As a set, see `core.ports`."""
        return span(self.low, self.high)

    def counts(self, numbers: int) -> list[int]:
        """How many of a set of numbers are in each bucket."""
        inside, width = (numbers & self.numbers) >> self.low, self.width
        mask = (1 << width) - 1
        return [(inside >> bucket * width & mask).bit_count() for bucket in range(self.buckets)]


@dataclass(frozen=True, slots=True)
class Strip:
    """A node on an axis. `used` are the numbers that are held of those that may be handed out."""

    counts: Mapping[str, Sequence[int]]  # by kind, of those that occur: one count for each bucket
    used: int
    claims: int  # on the whole node
    held: int  # numbers on the whole node

    def totals(self) -> dict[str, int]:
        """How many numbers of the axis each kind holds."""
        return {kind: sum(self.counts[kind]) for kind in KINDS if kind in self.counts}


def strip_of(held: Iterable[tuple[Sequence[int], Claim]], axis: Axis, reserved: int) -> Strip:
    """Counts what a node holds. `held`: numbers and claim of each port; `reserved`: bits to leave out."""
    ranks: dict[int, int] = {}
    claims = set()
    for numbers, claim in held:
        claims.add(claim.id)
        rank = _RANK[kind_of(claim)]
        for number in numbers:
            if rank < ranks.get(number, len(KINDS)):
                ranks[number] = rank
    counts: dict[str, array[int]] = {}
    low, high, width, buckets = axis.low, axis.high, axis.width, axis.buckets
    used = 0
    for number, rank in ranks.items():
        if low <= number <= high:
            kind = KINDS[rank]
            if kind not in counts:
                counts[kind] = array("H", bytes(2 * buckets))
            counts[kind][(number - low) // width] += 1
            used += not reserved >> number & 1
    return Strip(counts, used, len(claims), len(ranks))


@dataclass(slots=True)
class Board:
    """The strips of every node on one axis, and their sum."""

    ledger: Ledger
    axis: Axis
    strips: dict[NodeName, Strip] = field(default_factory=dict)
    totals: dict[str, list[int]] = field(default_factory=dict)  # by kind, over all nodes, for each bucket
    _seen: dict[NodeName, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many numbers of the axis may be handed out on a node."""
        return (self.axis.numbers & ~self.ledger.rules.reserved).bit_count()

    async def refresh(self) -> None:
        """Counts anew what changed. Others may refresh at the same time: each node is one step."""
        ledger = self.ledger
        names = ledger.nodes.names()
        for gone in self.strips.keys() - set(names):
            self._put(gone, None)
        await in_slices(
            [name for name in names if self._seen.get(name) != ledger.nodes.changed_on(name)], self._count, batch=1
        )

    def _count(self, names: Sequence[NodeName]) -> None:
        ledger = self.ledger
        for name in names:
            self._seen[name] = ledger.nodes.changed_on(name)
            self._put(name, strip_of(ledger.nodes.held_on(name), self.axis, ledger.rules.reserved))

    def _put(self, name: NodeName, strip: Strip | None) -> None:
        """One strip in place of another, in the sum too."""
        old = self.strips.pop(name, None)
        if old:
            self._add(old, -1)
        if strip:
            self.strips[name] = strip
            self._add(strip, 1)
        else:
            self._seen.pop(name, None)

    def _add(self, strip: Strip, sign: int) -> None:
        for kind, counts in strip.counts.items():
            total = self.totals.setdefault(kind, [0] * self.axis.buckets)
            for bucket, count in enumerate(counts):
                if count:
                    total[bucket] += sign * count

    def tenths(self) -> list[int]:
        """How many nodes are used up to 10 %, 20 %, … 100 % of the axis, each node counted once; none at all apart."""
        found = [0] * (TENTHS + 1)
        size = self.size or 1
        for strip in self.strips.values():
            found[-(-strip.used * TENTHS // size)] += 1
        return found

    def names(self, *, text: str, fullest_first: bool) -> list[NodeName]:
        """The nodes whose name has the text in it."""
        found = sorted(name for name in self.strips if text in name)
        if fullest_first:
            found.sort(key=lambda name: -self.strips[name].used)
        return found

    def shares(self) -> Iterator[tuple[NodeName, int]]:
        """Each node and how many numbers of the axis are used on it, by name."""
        for name in sorted(self.strips):
            yield name, self.strips[name].used
