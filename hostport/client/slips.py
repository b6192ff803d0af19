"""What can only be a slip of whoever wrote a call: each is a ValueError with a sentence. Pure."""

from __future__ import annotations

from hostport.contract.limits import HIGHEST_PORT, LOWEST_PORT, MOST_NUMBERS

USUAL_TTL = 300.0
"""Seconds that a lease outlives its last renewal. The allocator's own default is for those who do not renew."""

MOST_SECONDS = 315_576_000_000
"""What a message can say: google.protobuf.Duration ends there."""


def check_seconds(what: str, seconds: object) -> None:
    """Raises ValueError when this is no time that can be waited or leased for."""
    if not (isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0):
        raise ValueError(f"{what} {seconds!r} is not a number of seconds above 0, such as {USUAL_TTL:g}")
    if seconds > MOST_SECONDS:
        raise ValueError(f"{what} {seconds!r} is more than {MOST_SECONDS} seconds, the most that can be asked for")


def check_number(what: str, number: object) -> None:
    """Raises ValueError when this is no number of a port."""
    if not (_is_whole(number) and LOWEST_PORT <= number <= HIGHEST_PORT):  # type: ignore[operator]
        raise ValueError(f"{what} {number!r} is not in {LOWEST_PORT}..{HIGHEST_PORT}")


def check_size(what: str, size: object) -> None:
    """Raises ValueError when so many numbers cannot be one block."""
    if not (_is_whole(size) and 1 <= size <= MOST_NUMBERS):  # type: ignore[operator]
        raise ValueError(f"{what} {size!r} is not in 1..{MOST_NUMBERS}")


def check_range(bounds: object) -> None:
    """Raises ValueError when these are not the lowest and the highest number of a range."""
    if not (isinstance(bounds, tuple | list) and len(bounds) == 2):
        raise ValueError(f"range {bounds!r} is not a pair of numbers, such as (7000, 8000)")
    for bound in bounds:
        check_number("range", bound)
    if bounds[0] > bounds[1]:
        raise ValueError(f"range {bounds!r} ends before it begins")


def check_text(what: str, text: object) -> None:
    """Raises ValueError when this is no text."""
    if not isinstance(text, str):
        raise ValueError(f"{what} {text!r} is not a text")  # noqa: TRY004 - as every slip


def _is_whole(number: object) -> bool:
    """True is an int to Python, and none to whoever wrote it."""
    return isinstance(number, int) and not isinstance(number, bool)
