"""Metrics as data: what each program tells, described once, for /metrics, for docs/metrics.md and for the tests.

Rules (checked by a test on both programs): the prefix `hostport_`; base units; counters end in `_total`; no label names
a Pod, a request or an allocation, and what may have many values says in its description how it is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

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

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        return Histogram(self.name, self.help, tuple(self.labels), buckets=self.buckets, registry=registry)

    def info(self, registry: CollectorRegistry, **values: str) -> None:
        Info(self._stem, self.help, registry=registry).info(values)

    def family(self, samples: Iterable[Sample]) -> CounterMetricFamily | GaugeMetricFamily:
        """For a collector that reads the values when it is asked for them."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(self._stem, self.help, labels=tuple(self.labels))
        for values, number in samples:
            family.add_metric(values, number)
        return family


class CounterChildren(dict[tuple[str, ...], Counter]):
    """The children of a counter by the values of its labels: `labels()` is called once for each, since it costs more
    than the increment.
    """

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __missing__(self, values: tuple[str, ...]) -> Counter:
        child = self[values] = self._counter.labels(*values)
        return child


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
