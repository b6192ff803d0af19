"""Reserved numbers: those that Dynamic and Index never give, and the program that each is reserved for.

`--reserved-ports` names numbers, ranges and presets (`hostport.contract.reserved`), with commas. A number has the owner
of the first preset named that has it; else the one that has it in every cluster (sshd, the kubelet); else nobody who is
known. A number is reserved under every protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

import msgspec

from allocator.core.ports import Protocol, bits, format_numbers, parse_numbers, set_of
from hostport.contract.reserved import KUBERNETES, NODE, PRESETS, ReservedRange


class ReservedNumbers(msgspec.Struct, frozen=True):
    """A set of numbers, and the owners of those whose owner is known."""

    numbers: int = 0
    owners: Mapping[int, str] = {}

    @classmethod
    def of(cls, owners: Mapping[int, str]) -> ReservedNumbers:
        """The numbers by owner; an empty one is not known."""
        return cls(set_of(owners), {number: owner for number, owner in owners.items() if owner})

    def words(self, numbers: int) -> str:
        """For whom those of some numbers are reserved that are: `10250 is reserved for kubelet`."""
        by_owner: dict[str, int] = {}
        for number in bits(numbers & self.numbers):
            owner = self.owners.get(number, "")
            by_owner[owner] = by_owner.get(owner, 0) | 1 << number
        return ", ".join(
            f"{format_numbers(some)} {'is' if some.bit_count() == 1 else 'are'} reserved"
            f" {f'for {owner}' if owner else 'in this cluster'}"
            for owner, some in by_owner.items()
        )

    def runs(self) -> Iterator[tuple[int, int, Protocol, str]]:
        """Consecutive numbers of one owner, in order: the first, how many, the protocol that shows them, the owner."""
        numbered = ((number, self.owners.get(number, "")) for number in bits(self.numbers))
        for (_, owner), run in groupby(enumerate(numbered), lambda each: (each[1][0] - each[0], each[1][1])):
            first, *others = [number for _, (number, _) in run]
            yield first, 1 + len(others), _protocol_of(first, owner), owner


def parse_reserved(text: str) -> ReservedNumbers:
    """What `22,2379-2381,cilium` names; the empty text names nothing.

    Raises:
        ValueError: a part is neither a number in 1..65535 nor an ascending pair of such nor a preset.

    """
    numbers, presets = 0, list[ReservedRange]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part in PRESETS:
            presets += PRESETS[part]
            continue
        try:
            numbers |= parse_numbers(part)
        except ValueError as error:
            raise ValueError(f"{error} nor one of {', '.join(PRESETS)}") from None
    everywhere = {number: owner for number, owner in _owners([*KUBERNETES, *NODE]).items() if numbers >> number & 1}
    owners = everywhere | _owners(presets)
    return ReservedNumbers(numbers | set_of(owners), owners)


def _owners(ranges: list[ReservedRange]) -> dict[int, str]:
    """By number; of two that have one the first counts."""
    return {n: each.owner for each in reversed(ranges) for n in range(each.first, each.last + 1)}


def _protocol_of(number: int, owner: str) -> Protocol:
    for ranges in PRESETS.values():
        for each in ranges:
            if each.owner == owner and each.first <= number <= each.last:
                return Protocol(each.protocol)
    return Protocol.TCP
