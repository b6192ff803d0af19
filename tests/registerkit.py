"""Whether the indices over the claims are what the claims say."""

from __future__ import annotations

from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId
from allocator.core.register import Register

INDICES = (
    "by_pod", "by_controller", "by_shape", "unsettled", "portless", "leases", "unplanned", "wanting",
    "unplanned_within", "ranges", "outsider_ports", "reserved_in", "leased_in", "_shared",
)  # fmt: skip


def assert_in_step(register: Register) -> None:
    """The indices are those that the claims make: nothing is left behind, and no counter drifts."""
    anew = Register()
    for claim in register.claims.values():
        anew.insert(claim)
    for name in INDICES:
        assert getattr(register, name) == getattr(anew, name), name
    assert _names(register) == _names(anew)
    assert +register.states == +anew.states
    assert list(register.ids) == list(anew.ids)
    for name in map(NodeName, register.occupancy.names()):
        held, expected = (
            {(key, id(claim)) for key, claim in each.occupancy.port_map(name)} for each in (register, anew)
        )
        assert held == expected, f"{name}: the very claims of the register"


def _names(register: Register) -> dict[tuple[str, str], set[ClaimId]]:
    """In any order: that of claims of one name says nothing."""
    return {(space, name): set(ids) for space, names in register._by_name.items() for name, ids in names.items()}
