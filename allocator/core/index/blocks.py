"""Blocks on nodes: one entry for each, and its numbers only in the sets and counts of numbers.

What stands here is for ports of several numbers, and is not entered for others. The callers are `PortIndex`, which
says what is kept, and `CandidateSets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from allocator.core.blocks import BlockMap, first_of, length_of, slots_in
from allocator.core.index.nodes_by_block import NodesByBlock
from allocator.core.ports import WILDCARD, PortKey, Slot, number_of, protocol_of, slot_of

if TYPE_CHECKING:
    from allocator.core.claims import ClaimId
    from allocator.core.index.candidate_sets import Counted
    from allocator.core.index.ports import Holders, NodeEntry, NodesBySlot


# -- nodes by block


def conflicting(indexes: Iterable[NodesBySlot], block: Slot, ip: str) -> int:
    """The nodes that have a port, in any of the indexes, that conflicts with a block on an address."""
    nodes = 0
    slots: Sequence[Slot] = ()
    for index in indexes:
        here = 0
        if index.anywhere or index.by_ip:
            slots = slots or slots_in(block)
            here = _in_singles(index, slots, ip)
        if index.blocks:
            here |= in_blocks(index, block, ip)
        if here:
            nodes = nodes | here if nodes else here
    return nodes


def in_blocks(index: NodesBySlot, wanted: Slot, ip: str) -> int:
    """The nodes with a block that conflicts with a slot or block on an address."""
    everywhere = index.blocks.get(WILDCARD)
    nodes = everywhere.nodes_meeting(wanted) if everywhere else 0
    on_address = index.on_addresses if ip == WILDCARD else index.blocks.get(ip)
    return nodes | on_address.nodes_meeting(wanted) if on_address else nodes


def _of_all_addresses(index: NodesBySlot) -> Iterator[NodesByBlock]:
    everywhere = index.blocks.get(WILDCARD)
    if everywhere:
        yield everywhere
    if index.on_addresses:
        yield index.on_addresses


def _in_singles(index: NodesBySlot, slots: Sequence[Slot], ip: str) -> int:
    """The nodes with a port of one number that conflicts with some consecutive ones on an address."""
    nodes, anywhere = 0, index.anywhere
    if len(anywhere) < len(slots):
        for slot, there in anywhere.items():
            if slot in slots:
                nodes |= there
    else:
        for slot in slots:
            if slot in anywhere:
                nodes |= anywhere[slot]
    by_ip = index.by_ip
    for slot in by_ip if len(by_ip) < len(slots) else slots:
        if slot in by_ip and slot in slots:
            nodes |= index.of_single(slot) if ip == WILDCARD else index.on_address(slot, ip)
    return nodes


def add(index: NodesBySlot, block: Slot, ip: str, node: int) -> None:
    """Adds a node, as a set, to those of a block."""
    blocks = index.blocks.get(ip)
    if blocks is None:
        blocks = index.blocks[ip] = NodesByBlock()
    if blocks.add(block, node) and ip != WILDCARD:
        index.on_addresses.add(block, node)
    index.is_plain = False


def discard(index: NodesBySlot, block: Slot, ip: str, node: int) -> None:
    """Takes a node, as a set, that may be there, out of those of a block."""
    blocks = index.blocks.get(ip)
    if blocks is None:
        return
    if blocks.discard(block, node) and ip != WILDCARD:
        index.on_addresses.discard(block, node)
    if not blocks:
        del index.blocks[ip]
        index.note_whether_plain()


def unlike(index: NodesBySlot, key: PortKey) -> bool:
    """Whether anybody in the index has a number of the key, and not exactly its numbers."""
    slot = key.slot
    if any(block != slot for blocks in _of_all_addresses(index) for block in blocks.meeting(slot)):
        return True
    return key.length > 1 and _in_singles(index, slots_in(slot), WILDCARD) != 0


def lookup(index: NodesBySlot, slots: Iterable[Slot], whole: Slot) -> Callable[[Slot, int], int]:
    """`NodesBySlot.of_slot` for some slots, which are among those of `whole`, while nothing changes."""
    found = {slot: nodes for slot in slots if (nodes := index.of_single(slot))}
    protocol = protocol_of(first_of(whole))
    for blocks in _of_all_addresses(index):
        for number, nodes in blocks.of_numbers(whole):
            if nodes:
                slot = slot_of(protocol, number)
                found[slot] = found.get(slot, 0) | nodes
    return found.get


# -- one node


def holders(entry: NodeEntry, wanted: Slot) -> Holders:
    """Who holds a number of a slot or block on a node, on whatever address, each once."""
    found = dict.fromkeys(entry.holders.get(wanted, ()) if length_of(wanted) == 1 else _in_slots(entry, wanted))
    if entry.blocks:
        for block in entry.blocks.meeting(wanted):
            found.update(dict.fromkeys(entry.blocks.values[block]))
    return tuple(found)


def _in_slots(entry: NodeEntry, block: Slot) -> Iterable[ClaimId]:
    held, slots = entry.holders, slots_in(block)
    if len(held) < len(slots):
        return [holder for slot, these in held.items() if slot in slots for holder in these]
    return [holder for slot in slots for holder in held.get(slot, ())]


def stand(entry: NodeEntry, claim_id: ClaimId, block: Slot, sets: Iterable[Counted], *, is_settled: bool) -> None:
    """A claim holds a block of the node from now on; the sets of the node count its numbers."""
    held, settled = _bounds_of_block(entry, block)
    if entry.blocks is None:
        entry.blocks = BlockMap()
    others = entry.blocks.values.get(block, ())
    if claim_id in others:  # on another address
        return
    entry.blocks.put(block, (*others, claim_id))
    everything = (1 << length_of(block)) - 1
    count(sets, block, held=everything & ~held, settled=everything & ~settled if is_settled else 0, change=1)
    if entry.sets is not None:
        entry.note_numbers(block, everything, everything if is_settled else settled)


def leave(entry: NodeEntry, claim_id: ClaimId, block: Slot, sets: Iterable[Counted]) -> Holders:
    """Undoes `stand`; gives the other holders of this very block. The claim is still among all claims."""
    blocks = entry.blocks
    these = blocks.values.get(block, ()) if blocks else ()
    if blocks is None or claim_id not in these:  # it left with another address
        return these
    held, settled = _bounds_of_block(entry, block)
    left = tuple([holder for holder in these if holder != claim_id])
    if left:
        blocks.put(block, left)
    else:
        blocks.drop(block)
        if not blocks:
            entry.blocks = None
    still_held, still_settled = entry.look(block)
    count(sets, block, held=held & ~still_held, settled=settled & ~still_settled, change=-1)
    if entry.sets is not None:
        entry.note_numbers(block, still_held, still_settled)
    return left


def _bounds_of_block(entry: NodeEntry, block: Slot) -> tuple[int, int]:
    first = number_of(first_of(block))
    return entry.numbers(protocol_of(block), first, first + length_of(block) - 1)


# -- candidate sets


def count(sets: Iterable[Counted], block: Slot, *, held: int, settled: int, change: int) -> None:
    """A node of the sets has a holder, or somebody settled, more (1) or less (-1) for some numbers of a block.

    held, settled: these numbers, less the first of the block.
    """
    protocol, first = protocol_of(block), number_of(first_of(block))
    for candidates in sets:
        cover = candidates.covers.get(protocol)
        if cover is not None:
            cover.count(first, length_of(block), held=held, settled=settled, change=change)
