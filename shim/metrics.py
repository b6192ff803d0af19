"""What the shim counts. Its own registry, so that two shims in one process count apart."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from what a healthy answer takes to the API server's longest usual patience."""


class Metrics:
    """The shim's metrics; `docs/` and dashboards go by these names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.answers = Counter(
            "hostport_shim_answers",
            "Answers to /mutate: untouched, patched, denied (why), failed (HTTP 4xx or 5xx, and why)",
            ["result", "reason"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "hostport_shim_answer_seconds",
            "Seconds from the headers of a request to its answer",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge("hostport_shim_in_flight", "Requests under way", registry=self.registry)
        Info("hostport_build", "What runs here", registry=self.registry).info(
            {"component": "shim", "version": program_version()}
        )


def program_version() -> str:
    try:
        return version("hostport-operator")
    except PackageNotFoundError:
        return "unknown"
