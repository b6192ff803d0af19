"""What the shim tells Prometheus. Its own registry, so that two shims in one process count apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector

from hostport.metering import (
    AUTHORITY_EXPIRY,
    BUCKETS,
    BUILD_INFO,
    CERTIFICATE_EXPIRY,
    Authorities,
    CounterChildren,
    Described,
)
from hostport.version import VERSION

ANSWERS = Described(
    name="hostport_shim_answers_total",
    kind="counter",
    help="Answers to /mutate and /binding",
    labels={
        "result": "`untouched`, `patched`, `denied`, `failed` (HTTP 4xx, 5xx); of bindings `addressed`, `unaddressed`",
        "reason": "a reason of the contract, or the HTTP reason; empty where there is nothing to explain",
    },
)
ANSWER_SECONDS = Described(
    name="hostport_shim_answer_seconds",
    kind="histogram",
    help="From the headers of a request to its answer",
    buckets=BUCKETS,
)
RPC_SECONDS = Described(
    name="hostport_shim_rpc_seconds",
    kind="histogram",
    help="The wait for the allocator's answer, connecting and repeating included",
    buckets=BUCKETS,
)
IN_FLIGHT = Described(name="hostport_shim_in_flight", kind="gauge", help="Requests under way")

CONNECTIONS = Described(
    name="hostport_shim_connections_total",
    kind="counter",
    help="Connections to /mutate. An API server keeps 25, and opens one for each further review and second question",
)
REFUSED = Described(
    name="hostport_shim_certificate_refused_total",
    kind="counter",
    help="Handshakes that a client of /mutate, such as an API server, ended because it does not trust the certificate",
)

METRICS = (
    BUILD_INFO,
    ANSWERS,
    ANSWER_SECONDS,
    RPC_SECONDS,
    IN_FLIGHT,
    CONNECTIONS,
    REFUSED,
    CERTIFICATE_EXPIRY,
    AUTHORITY_EXPIRY,
)


class ShimMetrics:
    """What is counted, and how."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        BUILD_INFO.info(registry, component="shim", version=VERSION)
        self.answers = CounterChildren(ANSWERS.counter(registry))
        self.seconds = ANSWER_SECONDS.histogram(registry)
        self.rpc_seconds = RPC_SECONDS.histogram(registry)
        self.connections = CONNECTIONS.counter(registry)
        self.refused = REFUSED.counter(registry)
        self.in_flight = IN_FLIGHT.gauge(registry)
        self._expiry = CERTIFICATE_EXPIRY.gauge(registry)

    def certificate(self, name: str, expires: Callable[[], float]) -> None:
        """From now on, when this certificate ends: seconds since the epoch."""
        self._expiry.labels(name).set_function(expires)

    def authorities(self, ends: Callable[[], Mapping[str, float]]) -> None:
        """From now on, when each authority ends that is trusted: by fingerprint, seconds since the epoch."""
        self.registry.register(Authorities(ends))
