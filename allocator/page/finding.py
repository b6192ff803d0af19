"""What the words of a search mean, and whether a claim is meant. Pure.

worker-1 7050      all words together: a part of a name, node, namespace, kind or id; or the number of a port
7050/UDP           the number of a port, with its protocol; every number of a block means the block
worker-1:7050      the number of a port on a node (or on any whose name has this part), also worker-1:7050/UDP
shop/web           a part of namespace/name
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from allocator.core.claims import Claim
from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT

PORT = re.compile(r"(?:(?P<node>[^\s:/]+):)?(?P<number>[0-9]{1,5})(?:/(?P<protocol>tcp|udp|sctp))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SearchWord:
    """One word of a search. `number` is 0 where it names no port; `node` and `protocol` are empty where it has none."""

    text: str
    number: int = 0
    protocol: str = ""
    node: str = ""

    def means(self, claim: Claim) -> bool:
        """Whether the claim is like that."""
        if self.number and self.has_port(claim):
            return True
        return not self.node and self._is_in_a_name(claim)

    def has_port(self, claim: Claim) -> bool:
        """Whether the claim holds the port that is named, where one is named."""
        return self.node in (claim.node or "") and any(
            port.host_port <= self.number < port.host_port + port.count and self.protocol in {"", port.protocol.value}
            for port in claim.ports
        )

    def _is_in_a_name(self, claim: Claim) -> bool:
        owner, text = claim.owner, self.text
        name = owner.name or owner.generate_name or owner.description
        return (
            text in name
            or text in (claim.node or "")
            or text in owner.namespace
            or text in owner.kind
            or (not self.number and text in claim.id)  # a number is in ids by chance
            or ("/" in text and text in f"{owner.namespace}/{name}")
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A search that asks about one port, on a node or on all (`node` is empty). `is_named_so`: `node:number`."""

    number: int
    protocol: str
    node: str
    is_named_so: bool = False

    @property
    def port(self) -> str:
        """As people write it."""
        return f"{self.number}/{self.protocol}" if self.protocol else str(self.number)


def words_of(text: str) -> Sequence[SearchWord]:
    """The words of a search, in their order."""
    return [_search_word(each) for each in text.split()]


def finder(text: str) -> Callable[[Claim], bool]:
    """Whether all words mean a claim. Asked of every claim: a search of one word costs no loop."""
    words = words_of(text)
    if not words:
        return lambda _: True
    if len(words) == 1:
        return words[0].means
    return lambda claim: all(word.means(claim) for word in words)


def question(text: str) -> Question | None:
    """Which port a search asks about: `7050`, `7050/UDP`, `worker-1:7050`, or a node's name and a port in any order."""
    words = words_of(text)
    ports = [word for word in words if word.number]
    others = [word.text for word in words if not word.number]
    if len(ports) != 1 or len(others) > 1 or (others and ports[0].node):
        return None
    (port,) = ports
    return Question(port.number, port.protocol, port.node or "".join(others), is_named_so=bool(port.node))


def _search_word(text: str) -> SearchWord:
    port = PORT.fullmatch(text)
    if port is None or not LOWEST_PORT <= int(port["number"]) <= HIGHEST_PORT:
        return SearchWord(text)
    return SearchWord(text, int(port["number"]), (port["protocol"] or "").upper(), port["node"] or "")
