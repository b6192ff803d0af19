"""docs/metrics.md from the descriptions in the code: python deploy/monitoring/metrics_page.py > docs/metrics.md"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from allocator.metrics import METRICS as ALLOCATOR
from hostport.metering import Described
from shim.metrics import METRICS as SHIM

HEAD = """\
<!-- Rendered by `make docs` from allocator/metrics.py and shim/metrics.py. Do not edit. -->
# Metrics

Allocator and shim serve `/metrics` on their `--http` port, in Prometheus' text format; [Monitoring](monitoring.md) has
the ports, the alerts and the dashboard. Times are seconds. No label carries the name of a Pod, a request or an
allocation, and the number of series does not grow with the cluster: nodes are told as quantiles and as a histogram
over them, and by name the fullest alone. Beside these there are the `process_` metrics of the Python client.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_section("Allocator", ALLOCATOR), *_section("Shim", SHIM)]).rstrip() + "\n"


def _section(title: str, metrics: Iterable[Described]) -> Iterator[str]:
    yield f"## {title}\n"
    for metric in metrics:
        yield f"### {metric.name}\n"
        yield f"{metric.help}. Type: {metric.kind}.\n"
        if metric.labels:
            yield "| label | values |\n|---|---|"
            yield from (f"| `{name}` | {values} |" for name, values in metric.labels.items())
            yield ""
        if metric.buckets:
            yield f"Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}.\n"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - a generator's output
