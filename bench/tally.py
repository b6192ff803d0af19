"""What both load generators count, and the requests that they send.

A generator that has no idle time measures itself. `idle` is the share of the measured time in which its process used
no CPU; it has one thread.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

TOKEN = b"@@serial@@"
"""What a template has in place of a number of its own for each request."""


class Template:
    """A request of fixed size in which every TOKEN becomes the request's number."""

    def __init__(self, text: bytes, first: int = 1) -> None:
        self._parts = text.split(TOKEN)
        self._serial = first - 1
        self.size = len(text)

    def next(self) -> bytes:
        self._serial += 1
        return (b"%010d" % self._serial).join(self._parts)


@dataclass(slots=True)
class Load:
    """How long to go on, and what was counted after the warm-up. With `requests`: that many, all of them counted."""

    warm_up: float
    seconds: float
    requests: int = 0
    latencies: list[float] = field(default_factory=list)
    total: int = 0  # with those of the warm-up
    measured: float = 0.0
    cpu: float = 0.0
    _began: float = field(default_factory=time.perf_counter)
    _counting_since: float = 0.0
    _cpu_since: float = 0.0

    def count(self, latency: float) -> None:
        self.total += 1
        if self._counting_since:
            self.latencies.append(latency)

    def is_over(self, now: float) -> bool:
        """Looks at the clock: begins to count after the warm-up, and ends."""
        if not self._counting_since:
            if self.requests or now - self._began >= self.warm_up:
                self._counting_since, self._cpu_since = now, time.process_time()
            return False
        self.measured = now - self._counting_since
        if self.total < self.requests or (not self.requests and self.measured < self.seconds):
            return False
        self.cpu = time.process_time() - self._cpu_since
        return True

    def report(self) -> dict[str, float]:
        cuts = statistics.quantiles(self.latencies, n=100)
        return {
            "rate": len(self.latencies) / self.measured,
            "requests": len(self.latencies),
            "total": self.total,
            "idle": 1 - self.cpu / self.measured,
            "p50_ms": 1000 * cuts[49],
            "p99_ms": 1000 * cuts[98],
        }


class LoadError(Exception):
    """A request failed, or the server does not speak as expected."""
