"""An allocator in this process, with an empty ledger and one node: what `render --offline` asks.

The only module of the shim that knows the allocator; the image of the shim need not hold it.
"""

from __future__ import annotations

import secrets
import time

from allocator.core.admission import LedgerRules
from allocator.core.asks import Refused
from allocator.core.candidates import NodeName
from allocator.core.claims import ClaimId
from allocator.core.ledger import Ledger
from allocator.core.reserved import parse_reserved
from allocator.wire import encode_response, parse_allocate
from hostport.contract import Mistake, Reason
from hostport.contract.reserved import DEFAULT_RESERVED
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.outcomes import Allocate, Outcome, Refusal


def offline_allocator() -> Allocate:
    """Remembers what it granted, so that the Pods of one rendering meet each other, as on a cluster of one node."""
    reserved = parse_reserved(DEFAULT_RESERVED)
    rules = LedgerRules(reserved=reserved.numbers, reserved_for=reserved.owners, implicit_node=NodeName("offline"))
    ledger = Ledger(rules)

    async def allocate(request: AllocateRequest) -> Outcome:
        try:
            claim, warnings = ledger.reserve(parse_allocate(request), ClaimId(secrets.token_hex(16)), time.time())
        except Refused as refused:
            return _refusal(refused)
        ledger.publish(claim.id)
        response = AllocateResponse.FromString(encode_response(claim, warnings))
        response.allocation.id = ""  # as in any dry run
        return response

    return allocate


def _refusal(refused: Refused) -> Refusal:
    mistakes = tuple(Mistake(each.reason, each.field, each.message) for each in refused.mistakes)
    return Refusal(Reason[refused.mistakes[0].reason].code.admission_status, mistakes)
