"""deploy/monitoring/dashboard.json from this description: python deploy/monitoring/dashboard.py > .../dashboard.json

Rows from what a user feels down to what may be its cause. Each panel says in words what a good value looks like. A test
holds every expression against the metrics that the programs and the API server have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

WIDTH = 24  # columns of Grafana's grid
HEIGHT = 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WEBHOOK = 'name=~"(again.)?pods.hostport.io"'
INSISTING = 'name="again.pods.hostport.io"'
LONG = "15m"  # for what is rare
MONTH = "30d"
OBJECTIVE = 0.001  # of the calls may fail
USED = "max by (range) (hostport_range_used_numbers)"
NUMBERS = "max by (range) (hostport_range_numbers)"
GROWTH = "max by (range) (deriv(hostport_range_used_numbers[1d]))"
BATCHES = "hostport_journal_batch_submissions"
STAGES = (
    ("shim, all of it", "hostport_shim_answer_seconds"),
    ("wait for the allocator", "hostport_shim_rpc_seconds"),
    ("allocator, all of it", "hostport_allocate_seconds"),
    ("wait for durability", "hostport_commit_seconds"),
    ("decision", "hostport_decide_seconds"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture. `queries` are (legend, expression)."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacks: bool = False
    steps: Sequence[tuple[str, float | None]] = (("green", None),)


def rate(metric: str, by: str = "", match: str = "", window: str = "$__rate_interval") -> str:
    """A sum of rates. A counter that nobody has touched yet is no gap but nothing."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{match}}}[{window}]))".replace("{}", "")


def quantile(q: float, metric: str, match: str = "") -> str:
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', 'le', match)})"


def failed_share(window: str = "$__rate_interval") -> str:
    """Of the shims' answers, in 0..1."""
    failed = rate("hostport_shim_answers_total", match='result="failed"', window=window)
    return f"({failed} or vector(0)) / {rate('hostport_shim_answers_total', window=window)}"


def quantiles(metric: str) -> list[tuple[str, str]]:
    return [(f"p{q * 100:g}", quantile(q, metric)) for q in (0.5, 0.95, 0.99)]


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "What users feel",
        (
            Panel(
                title="Admissions answered",
                about="Share of the calls that got an answer, patch or denial alike. What is missing here is our fault."
                " Good: 100 %.",
                queries=[("answered", f"1 - {failed_share()}")],
                unit="percentunit",
                kind="stat",
                width=4,
                steps=(("red", None), ("orange", 0.99), ("green", 0.999)),
            ),
            Panel(
                title="Error budget left, 30 days",
                about="Of one failed call in a thousand, how much is left. Below 0 the objective is missed.",
                queries=[("left", f"1 - {failed_share(MONTH)} / {OBJECTIVE}")],
                unit="percentunit",
                kind="stat",
                width=4,
                steps=(("red", None), ("orange", 0), ("green", 0.25)),
            ),
            Panel(
                title="Time that a Pod waits for us",
                about="From the headers of a call to its answer, in the shim. Good: p99 below 50 ms. The API server"
                " gives up after 5 s.",
                queries=quantiles("hostport_shim_answer_seconds"),
                unit="s",
            ),
            Panel(
                title="Answers by result",
                about="Patched Pods, denials, Pods left untouched, failures.",
                queries=[("{{result}}", rate("hostport_shim_answers_total", "result"))],
                unit="reqps",
                stacks=True,
            ),
        ),
    ),
    (
        "Why Pods are denied, and why calls fail",
        (
            Panel(
                title="Denials and failures by reason",
                about="The reason is the word that kubectl shows; docs/troubleshooting.md has an entry for each.",
                queries=[
                    ("{{reason}}", rate("hostport_shim_answers_total", "reason", 'result=~"denied|failed"', LONG)),
                ],
                unit="reqps",
                stacks=True,
                width=12,
            ),
            Panel(
                title="Decisions by policy",
                about="What was asked of the allocator, leases of other services included.",
                queries=[("{{policy}} {{result}}", rate("hostport_allocations_total", "policy, result"))],
                unit="reqps",
                stacks=True,
                width=12,
            ),
        ),
    ),
    (
        "Where the time goes",
        (
            Panel(
                title="p99 of each stage",
                about="Each is a part of the one before. A decision takes less than 0.1 ms; durability is the disk.",
                queries=[(name, quantile(0.99, metric)) for name, metric in STAGES],
                unit="s",
                width=12,
            ),
            Panel(
                title="Time that a Pod waits for us, all of it",
                about="How many calls took how long. Two bands mean two kinds of calls.",
                queries=[("{{le}}", rate("hostport_shim_answer_seconds_bucket", "le"))],
                unit="s",
                kind="heatmap",
                width=12,
            ),
        ),
    ),
    (
        "What the API server says of us",
        (
            Panel(
                title="Time of the webhook, as the API server sees it",
                about="The network and the handshake included. Far above the shim's own figure: look there.",
                queries=[
                    (f"p{q * 100:g}", quantile(q, "apiserver_admission_webhook_admission_duration_seconds", WEBHOOK))
                    for q in (0.5, 0.99)
                ],
                unit="s",
                width=6,
            ),
            Panel(
                title="Calls by code",
                about="Code 200 has denials too. 0 or 5xx: the call failed.",
                queries=[("{{code}}", rate("apiserver_admission_webhook_request_total", "code", WEBHOOK))],
                unit="reqps",
                width=6,
            ),
            Panel(
                title="Rejections by kind",
                about="`no_error` is a denial of ours. `calling_webhook_error`: it could not be asked, and"
                " failurePolicy is Fail.",
                queries=[
                    (
                        "{{error_type}}",
                        rate("apiserver_admission_webhook_rejection_count", "error_type", WEBHOOK, LONG),
                    )
                ],
                unit="reqps",
                width=6,
            ),
            Panel(
                title="Pods that passed without us",
                about="Failed open: failurePolicy is Ignore and nobody answered. Excluded: no annotation, so no call;"
                " that is as it should be.",
                queries=[
                    ("failed open", rate("apiserver_admission_webhook_fail_open_count", match=INSISTING)),
                    ("excluded", rate("apiserver_admission_match_condition_exclusions_total", match=WEBHOOK)),
                ],
                unit="reqps",
                width=6,
            ),
        ),
    ),
    (
        "Ports",
        (
            Panel(
                title="How full the ranges are",
                about="Over all nodes where anything of a range is held. Above 80 %: widen the range or add nodes.",
                queries=[("{{range}}", f"{USED} / {NUMBERS}")],
                unit="percentunit",
                width=6,
                steps=(("green", None), ("orange", 0.8), ("red", 0.95)),
            ),
            Panel(
                title="Days until a range is full",
                about="If the last day goes on as it was. Empty: not growing.",
                queries=[("{{range}}", f"({NUMBERS} - {USED}) / ({GROWTH} > 0) / 86400")],
                unit="d",
                width=6,
            ),
            Panel(
                title="Nodes by how full they are",
                about="How many nodes have which share of the range in use. All in one band: evenly spread.",
                queries=[("{{up_to}}", "sum by (up_to) (hostport_range_nodes)")],
                unit="percentunit",
                kind="heatmap",
                width=6,
            ),
            Panel(
                title="Claims by state",
                about="RESERVED ones wait for their Pod; many for long: something refuses Pods after us.",
                queries=[("{{state}}", "max by (state) (hostport_claims)")],
                stacks=True,
                width=6,
            ),
        ),
    ),
    (
        "Truth",
        (
            Panel(
                title="Drift",
                about="Where books and cluster disagree. 0 is the only good value.",
                queries=[("{{kind}}", "max by (kind) (hostport_drift)")],
                width=6,
                steps=(("green", None), ("red", 1)),
            ),
            Panel(
                title="Incidents, unplaceable claims",
                about="What went wrong although every decision was right; Events on the Pods say more.",
                queries=[
                    ("{{kind}}", f"sum by (kind) (increase(hostport_incidents_total[{LONG}]))"),
                    ("unplaceable now", "max(hostport_unplaceable_claims)"),
                ],
                width=6,
            ),
            Panel(
                title="Pods outside the books",
                about="Pods with host ports that were never allocated here. They are counted and kept clear of.",
                queries=[
                    ("Pods", "max(hostport_outsider_pods)"),
                    ("their ports", "max(hostport_outsider_ports)"),
                    ("expired reservations", f"sum(increase(hostport_expired_total[{LONG}]))"),
                ],
                width=6,
            ),
            Panel(
                title="Age of the view, relists, clock steps",
                about="Since the view of the cluster was last proven current. Good: below 10 s.",
                queries=[
                    ("age", "max(hostport_watch_lag_seconds)"),
                    ("relists", f"sum(increase(hostport_relists_total[{LONG}]))"),
                    ("clock steps", f"sum(increase(hostport_clock_steps_total[{LONG}]))"),
                ],
                unit="s",
                width=6,
                steps=(("green", None), ("orange", 10), ("red", 30)),
            ),
        ),
    ),
    (
        "The programs",
        (
            Panel(
                title="Commits of the journal",
                about="One is an fsync, shared by all that came while the last one was under way.",
                queries=quantiles("hostport_journal_commit_seconds"),
                unit="s",
                width=6,
            ),
            Panel(
                title="Allocations that share a commit",
                about="Grows with the load: durability costs a burst little. Failures must be 0.",
                queries=[
                    ("mean", f"{rate(f'{BATCHES}_sum')} / {rate(f'{BATCHES}_count')}"),
                    ("failed commits", f"sum(increase(hostport_journal_failures_total[{LONG}]))"),
                ],
                width=6,
            ),
            Panel(
                title="Certificates end in",
                about="Renewed at two thirds of their life, without anybody.",
                queries=[
                    ("{{name}}", "min by (name) (hostport_certificate_expiration_timestamp_seconds) - time()"),
                ],
                unit="s",
                width=6,
                steps=(("red", None), ("orange", 86400), ("green", 7 * 86400)),
            ),
            Panel(
                title="What runs",
                about="One allocator that serves, two or more shims, one version but for the minutes of an upgrade.",
                queries=[
                    ("{{component}} {{version}}", "count by (component, version) (hostport_build_info)"),
                    ("serving", "sum(hostport_serving)"),
                ],
                width=6,
            ),
        ),
    ),
)


def dashboard() -> Json:
    return {
        "uid": "hostport-operator",
        "title": "HostPort Operator",
        "description": "Host ports for Kubernetes Pods by one annotation",
        "tags": ["kubernetes", "hostport"],
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "graphTooltip": 1,
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "annotations": {
            "list": [
                _annotation("Starts", "hostport_build_info unless on (instance) hostport_build_info offset 1m"),
            ]
        },
        "panels": [panel | {"id": number} for number, panel in enumerate(_panels(), start=1)],
    }


def _annotation(name: str, expression: str) -> Json:
    return {"name": name, "enable": True, "datasource": DATASOURCE, "expr": expression, "iconColor": "blue"}


def _panels() -> Iterator[Json]:
    y = 0
    for title, panels in ROWS:
        yield {"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}, "panels": []}
        x = 0
        for panel in panels:
            yield _panel(panel) | {"gridPos": {"x": x, "y": y + 1, "w": panel.width, "h": HEIGHT}}
            x += panel.width
        y += HEIGHT + 1


def _panel(panel: Panel) -> Json:
    is_heatmap = panel.kind == "heatmap"
    thresholds = {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in panel.steps]}
    custom = {"fillOpacity": 20, "stacking": {"mode": "normal"}} if panel.stacks else {"fillOpacity": 0}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "expr": expression,
                "legendFormat": legend,
                "format": "heatmap" if is_heatmap else "time_series",
            }
            for at, (legend, expression) in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": None, "thresholds": thresholds}
            | ({"custom": custom} if panel.kind == "timeseries" else {}),
            "overrides": [],
        },
        "options": {"calculate": False, "yAxis": {"unit": panel.unit}} if is_heatmap else {},
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1, ensure_ascii=False))  # noqa: T201 - a generator's output
