"""Who meets on a node: two who have a number in common, under one protocol and on addresses that conflict. Pure.

One number may be open on thousands of addresses. So only those of one address are compared, and those of every address
with all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Reach(NamedTuple):
    """The numbers from `first` to `last` that somebody has. Their order is that in which `meeting` goes over them.

    address: empty: every address. place: what the caller knows it by. holder: who never meets itself; empty: nobody.
    """

    protocol: str
    first: int
    last: int
    address: str
    place: int
    holder: str


def meeting(reaches: Iterable[Reach]) -> set[int]:
    """The places of those who meet another one."""
    found: set[int] = set()
    begun: dict[str, list[Reach]] = {}  # by address: whose numbers may go on
    for one in sorted(reaches):
        for address in ("", one.address) if one.address else list(begun):
            others = [
                other for other in begun.pop(address, ()) if other.protocol == one.protocol and other.last >= one.first
            ]
            for other in others:
                if not one.holder or one.holder != other.holder:
                    found |= {one.place, other.place}
            if others:
                begun[address] = others
        begun.setdefault(one.address, []).append(one)
    return found
