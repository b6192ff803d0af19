"""How long a call goes on: until it is answered, or its time is over; and its time is short while nobody is there."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest

from hostport.client import channel
from hostport.client.channel import Attempts
from hostport.client.errors import UnavailableError


class Link:
    """What the attempts are told of the allocator."""

    is_known = False


@pytest.mark.parametrize(
    ("reason", "is_over"), [("", True), ("NOT_SERVING", False)], ids=["silence", "an allocator that starts"]
)
def test_who_has_answered_is_asked_for_as_long_as_the_call_may_take(
    monkeypatch: pytest.MonkeyPatch, reason: str, is_over: bool
) -> None:
    now = [0.0]
    monkeypatch.setattr(channel, "elapsed", lambda: now[0])
    failure = UnavailableError("not yet", reason=reason)
    monkeypatch.setattr(channel, "error_of", lambda _: failure)
    attempts = Attempts(cast("Any", Link()), 30.0, 5.0)

    now[0] = 5.5
    if is_over:
        with pytest.raises(UnavailableError):
            attempts.failed(grpc.RpcError())
    else:
        assert attempts.failed(grpc.RpcError()) > 0
        assert attempts.timeout > 1, "there is time for another one"
