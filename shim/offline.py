"""An allocator in this process, with an empty ledger and one node: what `render --offline` asks.

The only module of the shim that knows the allocator; the image of the shim need not hold it.
"""

from __future__ import annotations

import secrets
import time

from allocator.core.asks import Refused as Refusal
from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger, Rules
from allocator.core.ports import DEFAULT_RESERVED, parse_numbers
from allocator.wire import parse_allocate, seal
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.outcomes import Allocate, Mistake, Refused, Unreachable


def offline_allocator() -> Allocate:
    """Remembers what it granted, so that the Pods of one rendering meet each other, as on a cluster of one node."""
    ledger = Ledger(Rules(reserved=parse_numbers(DEFAULT_RESERVED), implicit_node=NodeName("offline")))

    async def allocate(request: AllocateRequest) -> AllocateResponse | Refused | Unreachable:
        try:
            claim, warnings = ledger.reserve(parse_allocate(request), ClaimId(secrets.token_hex(16)), time.time())
        except Refusal as refusal:
            return _refused(refusal)
        ledger.publish(claim.id)
        response = AllocateResponse.FromString(seal(claim, warnings))
        response.allocation.id = ""  # as in any dry run
        return response

    return allocate


def _refused(refusal: Refusal) -> Refused:
    mistakes = tuple(Mistake(each.reason.name, each.field, each.message) for each in refusal.mistakes)
    return Refused(refusal.mistakes[0].reason.code.admission_status, mistakes)
