"""Pages of lists: how large one is, and where the next begins."""

from __future__ import annotations

import base64

from allocator.core.asks import Refused
from hostport.contract import Mistake, Reason
from hostport.contract.defaults import PAGE_SIZE
from hostport.contract.limits import MOST_OF_A_PAGE
from hostport.v1 import allocator_pb2 as pb


def page_of(request: pb.ListAllocationsRequest | pb.ListNodesRequest) -> tuple[int, str]:
    """(page size, the last key of the page before).

    Raises:
        Refused: the size is negative or the token is not one of ours.

    """
    if request.page_size < 0:
        message = f"page_size {request.page_size} is negative"
        raise Refused(Mistake(Reason.INVALID_PAGE, "page_size", message))
    size = min(request.page_size or PAGE_SIZE, MOST_OF_A_PAGE)
    if not request.page_token:
        return size, ""
    try:
        kind, after = base64.urlsafe_b64decode(request.page_token.encode()).decode().split(":", 1)
    except ValueError:
        kind, after = "", ""
    if kind != "after":
        message = f"page_token {request.page_token[:64]!r} is not one that this service gave"
        raise Refused(Mistake(Reason.INVALID_PAGE, "page_token", message))
    return size, after


def token_of(after: str) -> str:
    """Of the page that begins beyond a key, whatever comes and goes until it is asked for."""
    return base64.urlsafe_b64encode(f"after:{after}".encode()).decode()
