"""Alerts and dashboard: they ask only for what exists, and each alert fires when it should and not otherwise.

Prometheus' own promtool judges the expressions where it is installed (Debian: the package prometheus). That the names
exist needs no promtool.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from allocator.metrics import METRICS as ALLOCATOR
from hostport.version import DOCS
from shim.metrics import METRICS as SHIM

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["spec"]["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))

OF_THE_API_SERVER = {
    "apiserver_admission_webhook_admission_duration_seconds_bucket",
    "apiserver_admission_webhook_request_total",
    "apiserver_admission_webhook_rejection_count",
    "apiserver_admission_webhook_fail_open_count",
    "apiserver_admission_match_condition_exclusions_total",
}
"""tests/e2e holds these against a real API server."""

KNOWN = {series for described in (*ALLOCATOR, *SHIM) for series in described.series} | OF_THE_API_SERVER
NAME = re.compile(r"\b((?:hostport|apiserver|process)_[a-z0-9_]+)\b(?!\")")

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not here (Debian: prometheus)")


def expressions() -> dict[str, str]:
    """Every expression by what uses it, with Grafana's variables filled in."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    found = {f"{p['title']} {t['refId']}": t["expr"] for p in panels for t in p["targets"]}
    found |= {each["name"]: each["expr"] for each in DASHBOARD["annotations"]["list"]}
    found |= {name: rule["expr"] for name, rule in ALERTS.items()}
    return {user: expression.replace("$__rate_interval", "1m") for user, expression in found.items()}


def promtool(tmp_path: Path, *arguments: str, **files: Any) -> subprocess.CompletedProcess[str]:
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return subprocess.run(["promtool", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("user", "expression"), expressions().items(), ids=expressions())
def test_an_expression_names_metrics_that_exist(user: str, expression: str) -> None:
    names = set(NAME.findall(expression))

    assert names, user
    assert names <= KNOWN


@needs_promtool
def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"r{at}", "expr": expression} for at, expression in enumerate(expressions().values())]
    done = promtool(tmp_path, "check", "rules", "rules.yaml", rules={"groups": [{"name": "all", "rules": rules}]})

    assert done.returncode == 0, done.stdout + done.stderr


# For each alert: (series that make it fire, series that must not), as promtool writes series down: one sample a minute.
Series = dict[str, str]
STEADY = "1+0x60"

CASES: dict[str, tuple[Series, Series]] = {
    "HostPortNoAllocator": ({"hostport_serving": "0x60"}, {"hostport_serving": STEADY}),
    "HostPortTwoAllocators": (
        {'hostport_serving{pod="a"}': STEADY, 'hostport_serving{pod="b"}': STEADY},
        {'hostport_serving{pod="a"}': STEADY, 'hostport_serving{pod="b"}': "0x60"},
    ),
    "HostPortNoShim": ({}, {"hostport_shim_in_flight": "0x60"}),
    "HostPortAnswersFail": (
        {
            'hostport_shim_answers_total{result="failed"}': "0+2x60",
            'hostport_shim_answers_total{result="patched"}': "0+98x60",
        },
        {
            'hostport_shim_answers_total{result="denied"}': "0+50x60",
            'hostport_shim_answers_total{result="patched"}': "0+98x60",
        },
    ),
    "HostPortAnswersSlow": (
        {
            'hostport_shim_answer_seconds_bucket{le="1"}': "0+90x60",
            'hostport_shim_answer_seconds_bucket{le="5"}': "0+100x60",
            'hostport_shim_answer_seconds_bucket{le="+Inf"}': "0+100x60",
        },
        {
            'hostport_shim_answer_seconds_bucket{le="1"}': "0+100x60",
            'hostport_shim_answer_seconds_bucket{le="5"}': "0+100x60",
            'hostport_shim_answer_seconds_bucket{le="+Inf"}': "0+100x60",
        },
    ),
    "HostPortWebhookFailsOpen": (
        {'apiserver_admission_webhook_fail_open_count{name="again.pods.hostport.io"}': "0+1x60"},
        {'apiserver_admission_webhook_fail_open_count{name="pods.hostport.io"}': "0+1x60"},  # is asked again
    ),
    "HostPortDrift": (
        {'hostport_drift{kind="held_twice"}': STEADY},
        {'hostport_drift{kind="held_twice"}': "0x60"},
    ),
    "HostPortRejectedByKubernetes": (
        {'hostport_port_rejections_total{by="scheduler",explained="false"}': "0+1x60"},
        {'hostport_port_rejections_total{by="scheduler",explained="true"}': "0+1x60"},
    ),
    "HostPortIncidents": (
        {'hostport_incidents_total{kind="ExternalConflict"}': "0+1x60"},
        {'hostport_incidents_total{kind="Unplaceable"}': "0+1x60"},
    ),
    "HostPortNodePortConflict": ({"hostport_node_port_conflicts": "1x60"}, {"hostport_node_port_conflicts": "0x60"}),
    "HostPortUnplaceable": ({"hostport_unplaceable_claims": "2x60"}, {"hostport_unplaceable_claims": "0x60"}),
    "HostPortAgentSilent": (
        {"hostport_agent_report_age_seconds": "400x60"},
        {"hostport_agent_report_age_seconds": "100x60"},
    ),
    "HostPortAgentRefused": (
        {'hostport_reports_refused_total{reason="UNAUTHENTICATED"}': "0+3x60"},
        {'hostport_reports_refused_total{reason="REPORT_REPLACED"}': "0x44 1x15"},  # an agent was started anew
    ),
    "HostPortNotListening": ({"hostport_pods_not_listening": "2x60"}, {"hostport_pods_not_listening": "0x60"}),
    "HostPortWatchStale": (
        {"hostport_watch_lag_seconds": "60x60", "hostport_serving": STEADY},
        {"hostport_watch_lag_seconds": "60x60", "hostport_serving": "0x60"},
    ),
    "HostPortRangeAlmostFull": (
        {
            'hostport_range_used_numbers{range="7000-7099"}': "85x60",
            'hostport_range_numbers{range="7000-7099"}': "100x60",
        },
        {
            'hostport_range_used_numbers{range="7000-7099"}': "75x60",
            'hostport_range_numbers{range="7000-7099"}': "100x60",
        },
    ),
    # A range that is exactly as large as its users need (a block, one number for each replica) is full and in order.
    "HostPortRangeFull": (
        {
            'hostport_range_used_numbers{range="7000-7099",instance="a"}': "99x60",
            'hostport_range_numbers{range="7000-7099",instance="a"}': "100x60",
            'hostport_allocations_total{policy="DYNAMIC",result="refused",reason="RANGE_EXHAUSTED"}': "1+1x60",
        },
        {
            'hostport_range_used_numbers{range="7000-7099",instance="a"}': "100x60",
            'hostport_range_numbers{range="7000-7099",instance="a"}': "100x60",
            'hostport_allocations_total{policy="DYNAMIC",result="refused",reason="RANGE_EXHAUSTED"}': "7x60",
        },
    ),
    "HostPortDenialsForWantOfPorts": (
        {'hostport_allocations_total{result="refused",reason="RANGE_EXHAUSTED"}': "0+2x60"},
        {'hostport_allocations_total{result="refused",reason="NO_INDEX"}': "0+2x60"},
    ),
    "HostPortReservationsExpire": (
        {
            'hostport_expired_total{state="RESERVED"}': "0+3x60",
            'hostport_allocations_total{result="granted"}': "0+10x60",
        },
        {'hostport_expired_total{state="LEASED"}': "0+3x60", 'hostport_allocations_total{result="granted"}': "0+10x60"},
    ),
    "HostPortJournalFails": (
        {"hostport_journal_failures_total": "0+1x60"},
        {"hostport_journal_failures_total": "7x60"},
    ),
    "HostPortJournalDamaged": ({"hostport_journal_set_aside": "1x60"}, {"hostport_journal_set_aside": "0x60"}),
    "HostPortJournalSlow": (
        {
            'hostport_journal_commit_seconds_bucket{le="0.25"}': "0+90x60",
            'hostport_journal_commit_seconds_bucket{le="+Inf"}': "0+100x60",
            'hostport_journal_commit_seconds_bucket{le="0.5"}': "0+100x60",
        },
        {
            'hostport_journal_commit_seconds_bucket{le="0.25"}': "0+100x60",
            'hostport_journal_commit_seconds_bucket{le="0.5"}': "0+100x60",
            'hostport_journal_commit_seconds_bucket{le="+Inf"}': "0+100x60",
        },
    ),
    "HostPortCertificateEnds": (
        {'hostport_certificate_expiration_timestamp_seconds{name="shim"}': f"{6 * 86400}x60"},
        {'hostport_certificate_expiration_timestamp_seconds{name="shim"}': f"{30 * 86400}x60"},
    ),
    "HostPortCertificateEndsToday": (
        {'hostport_certificate_expiration_timestamp_seconds{name="shim"}': "3600x60"},
        {'hostport_certificate_expiration_timestamp_seconds{name="shim"}': f"{6 * 86400}x60"},
    ),
    "HostPortAuthorityEnds": (
        {'hostport_authority_trusted_until_timestamp_seconds{name="a"}': f"{6 * 86400}x60"},
        {
            'hostport_authority_trusted_until_timestamp_seconds{name="a"}': f"{6 * 86400}x60",
            'hostport_authority_trusted_until_timestamp_seconds{name="b"}': f"{300 * 86400}x60",
        },
    ),
    "HostPortCertificatesRefused": (
        {'hostport_shim_answers_total{result="failed",reason="TLS_FAILED"}': "0+1x60"},
        {'hostport_shim_answers_total{result="failed",reason="NOT_SERVING"}': "0+1x60"},
    ),
}


def fires(tmp_path: Path, alert: str, series: Series) -> bool:
    """Whether the alert fires after 50 minutes of these series."""
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "50m", "alertname": alert, "exp_alerts": []}],
    }
    rules = {"groups": [{"name": "one", "rules": [ALERTS[alert]]}]}
    done = promtool(
        tmp_path, "test", "rules", "test.yaml", rules=rules, test={"rule_files": ["rules.yaml"], "tests": [case]}
    )
    assert done.returncode == 0 or "got:[" in re.sub(r"\s", "", done.stdout + done.stderr), done.stdout + done.stderr
    return done.returncode != 0


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path, alert: str) -> None:
    bad, good = CASES[alert]

    assert [fires(tmp_path, alert, bad), fires(tmp_path, alert, good)] == [True, False]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_tells_what_is_felt_and_has_a_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{DOCS}runbooks.html#{alert.lower()}"
    assert headings == list(ALERTS)


def test_every_panel_says_what_a_good_value_is() -> None:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

    assert all(len(panel["description"]) > 20 for panel in panels)
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_the_panels_fill_the_grid_and_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    assert len(cells) == 24 * (max(y for _, y in cells) + 1)


def test_the_dashboard_is_rendered_from_the_code() -> None:
    script = MONITORING / "dashboard.py"
    rendered = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout

    assert (MONITORING / "dashboard.json").read_text(encoding="utf-8") == rendered
