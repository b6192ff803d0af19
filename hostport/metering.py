"""Metrics as data: what each program tells, described once, for /metrics, for docs/metrics.md and for the tests.

Rules (checked by a test on both programs): the prefix `hostport_`; base units; counters end in `_total`; no label names
a Pod, a request or an allocation, and what may have many values says in its description how it is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each, which nobody queries

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from what a healthy answer takes to the API server's longest usual patience."""

Sample = tuple[tuple[str, ...], float]
"""Label values in the order of the description, and the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One metric. `name` is what stands in /metrics; `labels` tells for each label which values it has."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries use."""
        return tuple(self.name + end for end in ("_bucket", "_sum", "_count")) if self.buckets else (self.name,)

    @property
    def _stem(self) -> str:
        """The library adds these endings itself."""
        return self.name.removesuffix("_total").removesuffix("_info")

    def counter(self, registry: CollectorRegistry) -> Counter:
        return Counter(self._stem, self.help, tuple(self.labels), registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        return Gauge(self.name, self.help, tuple(self.labels), registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Observed:
        observed = Observed(self)
        registry.register(observed)
        return observed

    def counted(self, registry: CollectorRegistry) -> Counted:
        counted = Counted(self)
        registry.register(counted)
        return counted

    def info(self, registry: CollectorRegistry, **values: str) -> None:
        Info(self._stem, self.help, registry=registry).info(values)

    def family(self, samples: Iterable[Sample]) -> CounterMetricFamily | GaugeMetricFamily:
        """For a collector that reads the values when it is asked for them."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self._stem, self.help, labels=tuple(self.labels))
        for values, number in samples:
            family.add_metric(values, number)
        return family


class Counted:
    """A counter with labels, for one thread. The library's takes a lock for each count, and several times as long."""

    def __init__(self, described: Described) -> None:
        self._described = described
        self._counts: dict[tuple[str, ...], int] = {}

    def inc(self, *values: str) -> None:
        self._counts[values] = self._counts.get(values, 0) + 1

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        yield self._described.family(self._counts.items())


class Observed:
    """A histogram, for one thread, likewise."""

    def __init__(self, described: Described) -> None:
        self._described = described
        self._counts = [0] * (len(described.buckets) + 1)  # up to each bound, and beyond the last
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        self._counts[bisect_left(self._described.buckets, amount)] += 1
        self._sum += amount

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = (*map(floatToGoString, self._described.buckets), "+Inf")
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._described.name, self._described.help, buckets, self._sum)


BUILD_INFO = Described(
    name="hostport_build_info",
    kind="info",
    help="What runs here; always 1",
    labels={"component": "`allocator` or `shim`", "version": "of this program"},
)
CERTIFICATE_EXPIRY = Described(
    name="hostport_certificate_expiration_timestamp_seconds",
    kind="gauge",
    help="When the certificate ends, in seconds since the epoch",
    labels={"name": "`allocator`, `shim`, or `ca`: the built-in authority"},
)
AUTHORITY_EXPIRY = Described(
    name="hostport_authority_trusted_until_timestamp_seconds",
    kind="gauge",
    help="When an authority ends whose certificates are trusted, in seconds since the epoch",
    labels={"name": "the first 16 digits of SHA-256 over its certificate; the 16 that end last"},
)


class Authorities:
    """A collector of the authorities that are trusted."""

    def __init__(self, ends: Callable[[], Mapping[str, float]]) -> None:
        self._ends = ends

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        yield AUTHORITY_EXPIRY.family(((name,), end) for name, end in self._ends().items())
