"""What is wrong with an ask for blocks, whoever holds what.

Rules:

* Ports that share their number share the size of their block.
* A block whose first number is fixed has all of its numbers in 1..65535, begins as its alignment says, and has no
  reserved number: who names the first does not see the others.
* Under Index the blocks of an index end before those of the next port group begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import gcd
from operator import itemgetter

from allocator.core.asks import Ask, PortAsk, PortGroup
from allocator.core.claims import count_numbers
from allocator.core.place.view import avoided, key_of
from allocator.core.ports import WILDCARD, Protocol, runs_of, span
from allocator.core.reserved import ReservedNumbers
from hostport.contract import Mistake, Reason
from hostport.contract.limits import HIGHEST_PORT
from hostport.contract.words import format_run

MOST_TRIED, MOST_TRIES = 8, 200
"""Blocks of several sizes of which it is tried out whether a range has room for them, and how often."""

Group = tuple[list[int], int]
"""The positions of the ports of a group, and the number that the user gave it; 0: none."""

Gap = tuple[int, int]
"""The first and the last of numbers that may be given, with no other one beside them."""


def differing_blocks(ask: Ask, members: Sequence[int]) -> list[Mistake]:
    """A sentence where the ports of a group want blocks of different sizes, or to begin at different numbers."""
    first, *others = (ask.ports[member] for member in members)
    for member, other in zip(members[1:], others, strict=True):
        if (first.count, first.alignment) != (other.count, other.alignment):
            message = (
                f"{first} and {other} share their number, and ask for {_size(first)} and for {_size(other)}. Ask"
                " for the same at both"
            )
            return [Mistake(Reason.BLOCK_SIZES_DIFFER, f"ports[{member}].count", message)]
    return []


def _size(port: PortAsk) -> str:
    size = f"{port.count} numbers" if port.count > 1 else "one number"
    return f"{size} from a multiple of {port.alignment} on" if port.alignment > 1 else size


def beyond_stride(ask: Ask, index: int, groups: Sequence[Group]) -> Iterator[Mistake]:
    """A sentence for the port that would run the furthest into the numbers of the next port group, under Index.

    A group whose number the user set is not among these numbers; its place among them stays empty.
    """
    left_open = [(at, ask.ports[members[0]]) for at, (members, number) in enumerate(groups) if not number]
    needed, port, places = max(
        (
            (-(-port.count * (index + 1) // (behind - at)), port, behind - at)
            for (at, port), (behind, _) in pairwise(left_open)
        ),
        key=itemgetter(0),
        default=(0, None, 0),
    )
    if port is None or needed <= ask.stride:
        return
    stride = f"stride {ask.stride}" if places == 1 else f"{places} x stride {ask.stride}"
    if port.count == 1:
        message = (
            f"index {index} is not below {stride}, so that its ports would run into those of the next port of index"
            f" {index - places * ask.stride}. Set stride above the highest index"
        )
    else:
        message = (
            f"{port}: {port.count} numbers for each of the indexes 0 to {index} are {port.count * (index + 1)}, more"
            f" than {stride}, so that they would run into those of the next port. Set stride to {needed} or more"
        )
    yield Mistake(Reason.INDEX_EXCEEDS_STRIDE, "stride", message)


def blocks_without_run(ask: Ask, groups: Iterable[Group], reserved: ReservedNumbers) -> Iterator[Mistake]:
    """A sentence for each block for which a range has no run at all, under a policy that searches."""
    if ask.low > ask.high:
        return
    everything, gaps = [(ask.low, ask.high)], list[Gap]()
    for members, number in groups:
        port = ask.ports[members[0]]
        if number or (port.count == 1 and port.alignment == 1):
            continue
        gaps = gaps or list(runs_of(span(ask.low, ask.high) & ~(reserved.numbers | avoided(ask))))
        if _have_room(gaps, port.count, port.alignment):
            continue
        what = f"{port}: range {ask.low}-{ask.high} has no room for {_size(port)}"
        field = f"ports[{members[0]}].count"
        if not _have_room(everything, port.count, port.alignment):
            message = f"{what}, whoever holds what. {_wider(ask)}, or ask for a smaller block"
            yield Mistake(Reason.RANGE_TOO_SMALL, field, message)
        else:
            message = f"{what} beside those that are reserved in this cluster or named by the Pod's own probes or hooks"
            yield Mistake(Reason.RANGE_RESERVED, field, f"{message}. Choose another range, or a smaller block")


def _have_room(gaps: Iterable[Gap], size: int, alignment: int, many: int = 1) -> bool:
    """Whether there is room for so many blocks of a size: the lowest first, which is the most there can be.

    It is counted, and no set is made: there may be hundreds of sizes and alignments.
    """
    step = -(-size // alignment) * alignment
    for first, last in gaps:
        many -= max(0, (last + 1 - size - (first + -first % alignment)) // step + 1)
        if many <= 0:
            return True
    return False


def _wider(ask: Ask) -> str:
    """How to make a range wider."""
    return "Raise range.max" if ask.high < HIGHEST_PORT else "Lower range.min"


def too_few_numbers(ask: Ask, groups: Iterable[Group], usable: int) -> Iterator[Mistake]:
    """A sentence for open ports, blocks among them, for which a range has no room, whoever holds what.

    Single ports alone are refused with RANGE_EXHAUSTED, as in 1.0.0-rc.1. usable: the set of numbers of the range that
    the ask could be given, but for those that its other ports have.
    """
    wanted: list[PortAsk] = []
    for members, number in groups:
        port = ask.ports[members[0]]
        if number:
            usable &= ~span(number, number + port.count - 1)
        else:
            wanted.append(port)
    blocks = [port for port in wanted if port.count > 1]
    numbers = count_numbers(wanted)
    if blocks and numbers > usable.bit_count():
        message = (
            f"range {ask.low}-{ask.high} has {usable.bit_count()} numbers that may be given to these ports, which want"
            f" {numbers}, whoever holds what. {_wider(ask)}, or ask for fewer"
        )
        yield Mistake(Reason.RANGE_TOO_SMALL, "range", message)
        return
    what = _without_room(blocks, list(runs_of(usable))) if blocks else ""
    if what:
        beside = "" if usable == span(ask.low, ask.high) else " beside what is reserved or fixed"
        message = f"range {ask.low}-{ask.high} has no room for {what}{beside}, whoever holds what"
        remedy = f"{_wider(ask)}, or ask for fewer or smaller blocks"
        yield Mistake(Reason.RANGE_TOO_SMALL, "range", f"{message}. {remedy}")


def _without_room(blocks: Sequence[PortAsk], gaps: Sequence[Gap]) -> str:
    """Those blocks in words that can be proven to have no room together; empty where none can."""
    sizes = sorted((port.count for port in blocks), reverse=True)
    for size in dict.fromkeys(sizes):
        what = _without_room_as_equals([port for port in blocks if port.count >= size], gaps)
        if what:
            return what
    if sizes[0] == sizes[-1] or len(sizes) > MOST_TRIED:
        return ""
    lengths = [last - first + 1 for first, last in gaps if last - first + 1 >= sizes[-1]]
    fit = _go_into(sizes, lengths, iter(range(MOST_TRIES)))
    return "" if fit else f"blocks of {' and '.join(map(str, sizes))} numbers"


def _go_into(sizes: Sequence[int], gaps: Sequence[int], tries: Iterator[int]) -> bool:
    """Whether blocks, the largest first, have room in gaps of some lengths, or the tries are spent. No alignment."""
    if not sizes:
        return True
    for gap in sorted({gap for gap in gaps if gap >= sizes[0]}):
        if next(tries, None) is None:
            return True
        at = gaps.index(gap)
        if _go_into(sizes[1:], [*gaps[:at], gap - sizes[0], *gaps[at + 1 :]], tries):
            return True
    return False


def _without_room_as_equals(blocks: Sequence[PortAsk], gaps: Iterable[Gap]) -> str:
    """The blocks in words where there is no room even for as many of the smallest of them; else empty.

    Each of them holds one of the smallest.
    """
    size, alignment = min(port.count for port in blocks), gcd(*(port.alignment for port in blocks))
    if _have_room(gaps, size, alignment, len(blocks)):
        return ""
    many = f"{len(blocks)} blocks" if len(blocks) > 1 else "a block"
    more = " or more" if any(port.count > size for port in blocks) else ""
    aligned = f" from a multiple of {alignment} on" if alignment > 1 else ""
    return f"{many} of {size} numbers{more}{aligned}"


def misplaced_block(ask: Ask, group: PortGroup, reserved: ReservedNumbers) -> Iterator[Mistake]:
    """What is wrong with a block whose first number is fixed."""
    port, first, last = ask.ports[group.members[0]], group.number, group.number + group.count - 1
    field = f"ports[{group.members[0]}]"
    if last > HIGHEST_PORT:
        message = f"{port}: {group.count} numbers from {first} on end at {last}, beyond {HIGHEST_PORT}. Begin lower"
        yield Mistake(Reason.NUMBER_BEYOND_RANGE, field, message)
    if first % group.alignment:
        what = "an even number" if group.alignment == 2 else f"a multiple of {group.alignment}"
        message = f"{port}: a block that begins with {first} does not begin with {what}, as it has to"
        is_made = ask.policy.is_ranged and not group.is_users
        remedy = f"Make range.min, stride and the size multiples of {group.alignment}" if is_made else "Move it by one"
        yield Mistake(Reason.BLOCK_MISALIGNED, "range.min" if is_made else field, f"{message}. {remedy}")
    taken = reserved.numbers & span(first, last)
    if taken and group.count > 1 and (group.is_users or not ask.policy.is_ranged):
        message = (
            f"{port}: of its numbers {format_run(first, group.count)}, {reserved.words(taken)}. Choose other numbers"
        )
        yield Mistake(Reason.PORT_RESERVED, field, message)


def sockets(ask: Ask, group: PortGroup) -> list[int]:
    """The first member of each protocol: others of it are the same socket under another name."""
    return list({ask.ports[member].protocol: member for member in reversed(group.members)}.values())[::-1]


def meeting_blocks(ask: Ask, groups: Sequence[PortGroup]) -> list[Mistake]:
    """A sentence for each port whose numbers meet those of an earlier one: both would conflict on every node."""
    mistakes = []
    seen: dict[tuple[Protocol, int], dict[str, PortAsk]] = {}  # by address, in port order
    for group in groups:
        for member in sockets(ask, group) if group.number else ():
            port = ask.ports[member]
            key = key_of(port, group.number)
            other = None
            for number in key.numbers:
                earlier = seen.setdefault((key.protocol, number), {})
                other = other or _first_conflict(key.ip, earlier)
                earlier.setdefault(key.ip, port)
            if other is not None:
                message = f"{port} and {other} would both get numbers of {key}. Give them different numbers"
                mistakes.append(Mistake(Reason.OWN_PORTS_COLLIDE, f"ports[{member}]", message))
    return mistakes


def _first_conflict(ip: str, earlier: Mapping[str, PortAsk]) -> PortAsk | None:
    """The first port whose address conflicts with this one."""
    if ip == WILDCARD:
        return next(iter(earlier.values()), None)
    return earlier.get(WILDCARD) or earlier.get(ip)
