"""What a reader asks for, parsed once from the query of a URL. The same words in the page's address and in its data.

range=7000-8000  sort=fullest|name  q=worker-1  page=2            nodes
q=web  state=BOUND  namespace=demo  node=worker-1  page=2         claims; `finding` reads `q`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial

from allocator.core.claims import State
from allocator.page.strips import OUTSIDER, Axis
from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT

NODES_PAGE = 20
CLAIMS_PAGE = 40
MOST_PAGES = 1_000_000
LONGEST_TEXT = 253

UNPLACEABLE = "UNPLACEABLE"
STATES = (
    State.BOUND.value,
    State.CONFIRMED.value,
    State.RESERVED.value,
    State.LEASED.value,
    OUTSIDER,
    UNPLACEABLE,
)
"""What claims can be filtered by: the states of the contract, and two marks that lists show."""

Arguments = Callable[[str], str]
"""An argument of the URL by name; empty where it is not given."""


class QueryError(Exception):
    """The reader's mistake: an argument that cannot be. The message names it."""


class Sort(Enum):
    """The order of nodes."""

    FULLEST = "fullest"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesQuery:
    """Which nodes, on which axis. No axis: the range that most claims come from."""

    axis: Axis | None = None
    sort: Sort = Sort.FULLEST
    text: str = ""
    page: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsQuery:
    """Which claims; what is empty does not matter."""

    text: str = ""
    state: str = ""
    namespace: str = ""
    node: str = ""
    page: int = 1

    @property
    def is_open(self) -> bool:
        """Whether every claim is meant."""
        return not (self.text or self.state or self.namespace or self.node)


def nodes_query(argument: Arguments) -> NodesQuery:
    """Raises QueryError."""
    sort = argument("sort") or Sort.FULLEST.value
    if sort not in {each.value for each in Sort}:
        raise QueryError(f"sort is {sort[:LONGEST_TEXT]!r}: fullest or name")
    return NodesQuery(
        axis=axis(argument("range")),
        sort=Sort(sort),
        text=_argument_text(argument, "name"),
        page=_page(argument, "nodes_page"),
    )


def claims_query(argument: Arguments) -> ClaimsQuery:
    """Raises QueryError."""
    state = argument("state")
    if state and state not in STATES:
        raise QueryError(f"state is {state[:LONGEST_TEXT]!r}: one of {', '.join(STATES)}")
    text = partial(_argument_text, argument)
    return ClaimsQuery(
        text=text("q"),
        state=state,
        namespace=text("namespace"),
        node=text("node"),
        page=_page(argument, "page"),
    )


def axis(text: str) -> Axis | None:
    """The axis of `7000-8000`; None of the empty text.

    Raises:
        QueryError: it is no range.

    """
    if not text:
        return None
    low, _, high = text.partition("-")
    if not (_is_number(low) and _is_number(high) and LOWEST_PORT <= int(low) <= int(high) <= HIGHEST_PORT):
        raise QueryError(
            f"range is {text[:LONGEST_TEXT]!r}: two numbers in 1..65535, the lower one first, as 7000-8000"
        )
    return Axis(int(low), int(high))


def _page(argument: Arguments, name: str) -> int:
    text = argument(name)
    if not text:
        return 1
    if not (_is_number(text) and 1 <= int(text) <= MOST_PAGES):
        raise QueryError(f"{name} is {text[:LONGEST_TEXT]!r}: a number from 1 on")
    return int(text)


def _argument_text(argument: Arguments, name: str) -> str:
    text = argument(name).strip()
    if len(text) > LONGEST_TEXT:
        raise QueryError(f"{name} has more than {LONGEST_TEXT} characters")
    return text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_PAGES))
