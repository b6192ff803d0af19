"""The sets of nodes of blocks, and of the runs of which blocks consist.

Rule: where many blocks are kept, a look at a number costs the same however many of them have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from allocator.core.blocks import BlockMap, length_of, numbers_of
from allocator.core.ports import LAST_SLOT, Slot, bits, number_of, take_out
from hostport.contract.limits import HIGHEST_PORT

MANY_BLOCKS = 64
"""So many blocks of a map are gone through; of more the runs are kept, too."""

ORDERS = HIGHEST_PORT.bit_length()
"""The runs of which a block consists have less than two to the power of this many numbers."""

_ORDERS = tuple(range(ORDERS))

Run = int
"""2^k numbers from a multiple of 2^k on, under one protocol: the multiple, k and the protocol in one int."""


class NodesByBlock(BlockMap[int]):
    """The set of nodes of each block.

    Where there are many, the set of nodes of each run, too, of which a block consists: at most 2 log2(length) of them.
    A number lies in `ORDERS` runs, so that nobody goes through thousands of blocks that each begin elsewhere.
    """

    __slots__ = ("_again", "_of_runs", "_shortest")

    def __init__(self) -> None:
        super().__init__()
        self._of_runs: dict[Run, int] | None = None  # None: the blocks are few
        self._again: dict[tuple[Run, int], int] = {}  # how many further blocks of one node have a run: hardly ever any
        self._shortest = HIGHEST_PORT  # no block has fewer numbers

    def add(self, block: Slot, node: int) -> bool:
        """Adds a node, as a set, to those of a block; whether it was none of them."""
        nodes = self.values.get(block, 0)
        with_node = nodes | node  # not an intersection: Python 3.14 uses the room of an empty one for small numbers
        if with_node == nodes:
            return False
        self.put(block, with_node)
        self._shortest = min(self._shortest, length_of(block))
        if self._of_runs is not None:
            self._enter(self._of_runs, block, node)
        elif len(self.values) > MANY_BLOCKS:
            of_runs = self._of_runs = dict[Run, int]()
            for each, there in self.values.items():
                self._enter(of_runs, each, there)
        return True

    def discard(self, block: Slot, node: int) -> bool:
        """Takes a node, as a set, out of those of a block; whether it was one of them."""
        nodes = self.values.get(block, 0)
        if nodes | node != nodes:
            return False
        if nodes == node:
            self.drop(block)
        else:
            self.put(block, nodes & ~node)
        if self._of_runs is not None:
            self._leave(self._of_runs, block, node)
        return True

    def _enter(self, of_runs: dict[Run, int], block: Slot, nodes: int) -> None:
        for run in _runs_of(block):
            there = of_runs.get(run, 0)
            for position in bits(there & nodes):
                self._again[run, 1 << position] = self._again.get((run, 1 << position), 0) + 1
            of_runs[run] = there | nodes

    def _leave(self, of_runs: dict[Run, int], block: Slot, node: int) -> None:
        for run in _runs_of(block):
            again = self._again.pop((run, node), 0)
            if again > 1:
                self._again[run, node] = again - 1
            elif not again:
                take_out(of_runs, run, node)

    def nodes_meeting(self, wanted: Slot) -> int:
        """The nodes with a block that has a number in common with a slot or block."""
        if self._of_runs is not None:
            numbers = numbers_of(wanted) if wanted > LAST_SLOT else (number_of(wanted),)
            points = numbers if len(numbers) == 1 else {*numbers[:: self._shortest], numbers[-1]}
            # A block that meets some numbers has the first, the last, or one of those that lie `_shortest` apart.
            if len(points) * ORDERS < len(self.values):
                return self._having(self._of_runs.get, points, wanted & 3)
        nodes = 0
        for block in self.meeting(wanted):
            nodes |= self.values[block]
        return nodes

    @staticmethod
    def _having(at: Callable[[Run, int], int], numbers: Iterable[int], protocol: int) -> int:
        """The nodes with a block that has any of some numbers."""
        nodes = 0
        for number in numbers:
            for order in _ORDERS:
                here = at((number >> order << 4 | order) << 2 | protocol, 0)
                if here:  # hardly ever: to unite a large set with nothing would copy it
                    nodes = nodes | here if nodes else here
        return nodes

    def of_numbers(self, whole: Slot) -> Iterable[tuple[int, int]]:
        """The numbers of a run that a block has, each with the set of nodes; others may come with an empty set.

        Each block is entered as the two runs, as long as a power of two, that cover what it has of `whole`; then each
        such run is cut into halves, the longest first. A thousand blocks that all begin elsewhere cost little more
        than one. Where the runs are kept it is enough to cut those.
        """
        numbers = numbers_of(whole)
        longest = len(numbers).bit_length() - 1
        if self._of_runs is not None and len(numbers) == 1 << longest and numbers.start % len(numbers) == 0:
            return zip(numbers, self._cut(self._of_runs.get, numbers.start, longest, whole & 3), strict=True)
        by_order: list[dict[int, int]] = [{} for _ in range(longest + 1)]
        for block in self.meeting(whole):
            inside, nodes = numbers_of(block), self.values[block]
            begin, end = max(inside.start, numbers.start), min(inside.stop, numbers.stop)
            order = (end - begin).bit_length() - 1
            for at in {begin, end - (1 << order)}:
                by_order[order][at] = by_order[order].get(at, 0) | nodes
        for order in range(longest, 0, -1):
            halves, half = by_order[order - 1], 1 << order - 1
            for begin, nodes in by_order[order].items():
                for at in (begin, begin + half):
                    halves[at] = halves[at] | nodes if at in halves else nodes
        return by_order[0].items()

    @staticmethod
    def _cut(at: Callable[[Run, int], int], begin: int, longest: int, protocol: int) -> list[int]:
        """The sets of nodes of 2^longest numbers, from the runs that have all of them down to each number."""
        found = [0]
        for order in range(longest, ORDERS):
            found[0] |= at((begin >> order << 4 | order) << 2 | protocol, 0)
        for order in range(longest - 1, -1, -1):
            halves, first = [], begin >> order
            for place in range(2 * len(found)):
                here, above = at((first + place << 4 | order) << 2 | protocol, 0), found[place >> 1]
                halves.append(above | here if here else above)
            found = halves
        return found


class NodesOnAddresses(NodesByBlock):
    """The same of blocks on all addresses but the wildcard, each as often as it was added: there may be thousands."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        super().__init__()
        self._times: dict[tuple[Slot, int], int] = {}  # of a block that a node has on several addresses

    def add(self, block: Slot, node: int) -> bool:
        """As for `NodesByBlock`; on one more address."""
        is_new = super().add(block, node)
        if not is_new:
            self._times[block, node] = self._times.get((block, node), 1) + 1
        return is_new

    def discard(self, block: Slot, node: int) -> bool:
        """As for `NodesByBlock`; on one of its addresses."""
        times = self._times.pop((block, node), 1)
        if times > 2:
            self._times[block, node] = times - 1
        return times == 1 and super().discard(block, node)


def _runs_of(block: Slot) -> Iterator[Run]:
    """The fewest runs that a block consists of."""
    numbers, protocol = numbers_of(block), block & 3
    begin, end, order = numbers.start, numbers.stop, 0
    while begin < end:
        if begin & 1:
            yield (begin << 4 | order) << 2 | protocol
            begin += 1
        if end & 1:
            end -= 1
            yield (end << 4 | order) << 2 | protocol
        begin, end, order = begin >> 1, end >> 1, order + 1
