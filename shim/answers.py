"""The AdmissionReview that goes back. Pure.

The API server shows `status.message` to whoever made the Pod, in one line of kubectl or of an Event, so the message
carries everything: each reason, each field, what to do.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shim.outcomes import Mistake, Remark
from shim.pointers import Op
from shim.review import API_VERSION, KIND

Review = dict[str, Any]

_encode = msgspec.json.Encoder().encode

MOST_SHOWN = 20
"""Mistakes in one message: a Pod may have hundreds of ports, and an Event 1,024 characters."""


def allowed(uid: str, *, ops: Sequence[Op] = (), warnings: Iterable[Remark] = (), allocation_id: str = "") -> Review:
    response: Review = {"uid": uid, "allowed": True}
    if ops:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(_encode(ops)).decode("ascii")
    told = list(warnings)
    codes = ",".join(dict.fromkeys(warning.reason for warning in told))
    return _review(response, told, {"allocation-id": allocation_id, "warnings": codes})


def denied(uid: str, *, code: int, mistakes: Sequence[Mistake]) -> Review:
    """Takes at least one mistake; the first one's reason is the answer's."""
    reason = mistakes[0].reason
    status = {"status": "Failure", "code": code, "reason": reason, "message": denial_message(mistakes)}
    return _review({"uid": uid, "allowed": False, "status": status}, (), {"reason": reason})


def denial_message(mistakes: Sequence[Mistake]) -> str:
    if len(mistakes) == 1:
        return str(mistakes[0])
    shown = "; ".join(f"({at}) {each}" for at, each in enumerate(mistakes[:MOST_SHOWN], start=1))
    more = len(mistakes) - MOST_SHOWN
    return f"{len(mistakes)} mistakes: {shown}" + (f"; and {more} more" if more > 0 else "")


def failure(code: int, reason: str, message: str) -> bytes:
    """The body of an HTTP error: a Status, as the API server itself would send."""
    status = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason}
    return _encode({**status, "message": f"{reason}: {message}"}) + b"\n"


def _review(response: Review, warnings: Iterable[Remark], audit: Mapping[str, str]) -> Review:
    texts = [str(warning) for warning in warnings]
    known = {name: value for name, value in audit.items() if value}
    response |= {"warnings": texts} if texts else {}
    response |= {"auditAnnotations": known} if known else {}
    return {"apiVersion": API_VERSION, "kind": KIND, "response": response}
