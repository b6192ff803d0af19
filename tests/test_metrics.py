"""/metrics of both programs as they run: names, units, labels, and that the pages describe what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from allocator.metrics import METRICS as ALLOCATOR
from hostport.metering import Described
from shim.metrics import METRICS as SHIM

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {"allocator": ALLOCATOR, "shim": SHIM}
FLAGS = {
    "allocator": ["--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--journal=memory"],
    "shim": ["--listen=127.0.0.1:0", "--http=127.0.0.1:0"],
}
LABELS = {
    "policy", "result", "reason", "state", "kind", "by", "explained", "range", "share_of_nodes", "up_to", "node", "name",
    "component", "version",
}  # fmt: skip
UNITS = ("_seconds", "_ratio", "_info", "_total", "_bytes")
COUNTED = {
    "hostport_serving", "hostport_standby", "hostport_claims", "hostport_unplaceable_claims", "hostport_outsider_pods",
    "hostport_pods_not_listening", "hostport_agents", "hostport_foreign_ports",
    "hostport_outsider_ports", "hostport_nodes", "hostport_drift", "hostport_range_used_numbers",
    "hostport_range_numbers", "hostport_range_nodes", "hostport_shim_in_flight", "hostport_journal_batch_submissions",
    "hostport_journal_trouble", "hostport_journal_set_aside", "hostport_node_port_conflicts",
}  # fmt: skip
"""Things that are counted in themselves: no unit but what the name says."""


needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not here (Debian: the package prometheus)"
)


@pytest.fixture(scope="module")
def scraped() -> Iterator[dict[str, str]]:
    """The text of /metrics by program."""
    with ExitStack() as stack:
        texts = {}
        for program, flags in FLAGS.items():
            command = [sys.executable, "-m", program, "serve", *flags]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT))
            stack.callback(process.kill)
            assert process.stderr
            lines = iter(process.stderr)
            address = next(found[1] for line in lines if (found := re.search(r"http (127\.0\.0\.1:[0-9]+)", line)))
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
                texts[program] = response.read().decode()
        yield texts


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def test_a_first_denial_for_want_of_room_makes_a_counter_grow_that_was_there(scraped: dict[str, str]) -> None:
    (counted,) = (each for each in families(scraped["allocator"]) if each.name == "hostport_allocations")
    assert [(sample.labels, sample.value) for sample in counted.samples if sample.name.endswith("_total")] == [
        ({"policy": "DYNAMIC", "result": "refused", "reason": "RANGE_EXHAUSTED"}, 0.0)
    ]


@pytest.mark.parametrize("program", PROGRAMS)
def test_names_labels_and_units_follow_the_rules(scraped: dict[str, str], program: str) -> None:
    for family in families(scraped[program]):
        if family.name.startswith("process_"):
            continue
        assert family.name.startswith("hostport_"), family.name
        assert family.documentation, family.name
        for sample in family.samples:
            name = (
                re.sub(r"_(bucket|sum|count|created)\Z", "", sample.name) if family.type == "histogram" else sample.name
            )
            assert name.endswith(UNITS) or name in COUNTED, name
            assert (family.type == "counter") == name.endswith("_total"), name
            assert set(sample.labels) <= LABELS | ({"le"} if family.type == "histogram" else set()), sample
            assert "millis" not in name


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_metric_is_described_once_and_every_description_is_of_a_metric(
    scraped: dict[str, str], program: str
) -> None:
    needs_cluster = {"hostport_watch_lag_seconds", "hostport_relists_total"} if program == "allocator" else set()
    stems = {described.name.removesuffix("_total").removesuffix("_info") for described in PROGRAMS[program]}

    assert len(stems) == len(PROGRAMS[program])
    told = {f.name.removesuffix("_info") for f in families(scraped[program]) if f.name.startswith("hostport_")}
    assert told | {name.removesuffix("_total") for name in needs_cluster} == stems


@pytest.mark.parametrize("described", [*ALLOCATOR, *SHIM], ids=lambda each: each.name)
def test_a_description_is_a_sentence_and_says_what_its_labels_mean(described: Described) -> None:
    assert len(described.help) > 10
    assert not described.help.endswith(".")
    assert all(described.labels.values())
    assert bool(described.buckets) == (described.kind == "histogram")
    if described.name.endswith("_seconds") and described.buckets:
        assert {0.0005, 10.0} <= set(described.buckets)


def test_the_page_is_rendered_from_the_code() -> None:
    script = ROOT / "deploy" / "monitoring" / "metrics_page.py"
    rendered = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout

    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == rendered


class Told(Collector):
    """A collector of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> list[Metric]:
        return [self._family]


def every_series(described: Described) -> CollectorRegistry:
    """One series of a metric, whatever a program that just started has of it."""
    registry = CollectorRegistry()
    values = ("x",) * len(described.labels)
    if described.kind == "info":
        described.info(registry, version="1")
    elif described.kind == "histogram":
        metric = described.histogram(registry)
        (metric.labels(*values) if values else metric).observe(1)
    else:
        registry.register(Told(described.family([(values, 1)])))
    return registry


@pytest.mark.parametrize("program", PROGRAMS)
@needs_promtool
def test_promtool_finds_nothing_to_mend_in_any_metric(program: str) -> None:
    """A gauge with the label `le` or `quantile` among them, which are the histogram's and the summary's own."""
    text = b"".join(generate_latest(every_series(described)) for described in PROGRAMS[program])
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)

    assert (done.returncode, (done.stdout + done.stderr).decode()) == (0, "")


@pytest.mark.parametrize("program", PROGRAMS)
@needs_promtool
def test_promtool_finds_nothing_to_mend(scraped: dict[str, str], program: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped[program], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
