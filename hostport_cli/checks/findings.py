"""How a check came out, and the ways to say so. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hostport_cli.checks.catalogue import CHECKS, Check
from hostport_cli.checks.facts import Unseen
from hostport_cli.printing import age

DAY = 86400.0
EXPIRY_WARNING, EXPIRY_FAILURE = 7 * DAY, DAY


class Level(Enum):
    """How a check came out."""

    OK = "✓"
    WARNING = "‼"
    FAILED = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check and how it came out. `detail` belongs to the sentence; `cause` and `fix` are there unless it is OK."""

    check: Check
    level: Level
    detail: str = ""
    cause: str = ""
    fix: str = ""


def ok(check: str, detail: str = "") -> Finding:
    return Finding(CHECKS[check], Level.OK, detail)


def warning(check: str, cause: str, fix: str, detail: str = "") -> Finding:
    return Finding(CHECKS[check], Level.WARNING, detail, cause, fix)


def failed(check: str, cause: str, fix: str, detail: str = "") -> Finding:
    return Finding(CHECKS[check], Level.FAILED, detail, cause, fix)


def unseen(check: str, unseen: Unseen) -> Finding:
    """The finding for what could not be looked at: a warning, and never a pass."""
    fix = "ask with an account that may see it" if unseen.is_forbidden else "see the API server's message"
    return warning(check, f"it could not be checked: {unseen.message}", fix)


def lasts(check: str, expiries: dict[str, float], now: float) -> Finding:
    """Whether certificates last: by name, the epoch second at which each ends. Judged by the one that ends first."""
    name, expires = min(expiries.items(), key=lambda each: each[1])
    left = expires - now
    if left > EXPIRY_WARNING:
        return ok(check, f"{age(left)}")
    when = f"ends in {age(left)}" if left > 0 else f"ended {age(-left)} ago"
    made = failed if left < EXPIRY_FAILURE else warning
    return made(
        check, f"{name} {when}", "see why it was not renewed: the allocator's log, cert-manager, or your own Secret"
    )
