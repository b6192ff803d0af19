"""RFC 3339, as Kubernetes writes times, from and to seconds since the epoch. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def rfc3339(seconds: float) -> str:
    """A time to the second, as `metav1.Time` is written."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(seconds: float) -> str:
    """A time to the microsecond, as `metav1.MicroTime` is written."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(text: Any) -> float | None:
    """Seconds since the epoch; None where the text is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
