"""The policies, as far as anybody but the allocator has to know them: one row for each.

A row's name is the value of the annotation `hostport.io/policy`; in the proto it is POLICY_ and the same in capitals.
How numbers are chosen is in `allocator.core.place.policies`, which has an object for each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyTerms:
    """What callers and people know of a policy.

    name: the annotation's value. rule: what a number is that it gave, with {min}, {max}, {index} and {steps} put in.
    has_range: whether min-port and max-port bound its numbers.
    has_index: whether a number follows from the index of a Pod and the stride.
    is_searched: whether it gives any numbers of the range that are free. Then it avoids those that probes name.
    """

    name: str
    rule: str
    has_range: bool = False
    has_index: bool = False
    is_searched: bool = False

    @property
    def proto_name(self) -> str:
        """The name of its value in the proto."""
        return f"POLICY_{self.name.upper()}"


POLICIES: Mapping[str, PolicyTerms] = {
    terms.name: terms
    for terms in (
        PolicyTerms(name="Index", rule="{min} + {index}{steps}", has_range=True, has_index=True),
        PolicyTerms(
            name="Dynamic",
            rule="lowest of {min}-{max} that was free where it may run",
            has_range=True,
            is_searched=True,
        ),
        PolicyTerms(name="Passthrough", rule="its containerPort"),
        PolicyTerms(name="Static", rule="the hostPort that was written"),
    )
}
"""All of them by name, in the order in which they are named to people."""

RANGED = tuple(name for name, terms in POLICIES.items() if terms.has_range)
INDEXED = tuple(name for name, terms in POLICIES.items() if terms.has_index)
SEARCHED = tuple(name for name, terms in POLICIES.items() if terms.is_searched)
"""The names of those that are alike in this."""

DEFAULT_POLICY = "Index"
"""What is meant where none is named."""
