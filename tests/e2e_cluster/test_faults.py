"""The table of faults: 16 clients create Pods, something breaks, and no two Pods ever conflict."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.binaries import CHECKOUT

from e2e_cluster import report
from e2e_cluster.clients import CLIENTS, PLAIN_CLIENTS, paper_nodes, run_load
from e2e_cluster.driver import Access
from e2e_cluster.faults import FAULTS, Failures, Fault
from e2e_cluster.installed import Installed

DELAY = 8  # seconds of quiet before the fault
RESULTS = Path(os.environ.get("HOSTPORT_FAULTS", CHECKOUT / "build" / "faults.json"))
NEVER_DELAYED = 3.0  # seconds; a call of a webhook that hangs takes 5
HELD_UP = 1.0  # seconds; a Pod that does not ask takes 0.3 at most where nothing else holds up the API server


@pytest.fixture(scope="module")
def places(access: Access, installed: Installed) -> Iterator[None]:
    with paper_nodes(access):
        yield


def measure(fault: Fault, installed: Installed, folder: Path) -> dict[str, Any]:
    with run_load(installed.access, fault.seconds, folder) as clients:
        try:
            time.sleep(DELAY)
            fault.inflict(installed)
            said, _ = clients.communicate(timeout=fault.seconds + 60)
        finally:
            clients.kill()
    seen: dict[str, Any] = json.loads(said)
    return {
        "fault": fault.name,
        "seconds": fault.seconds,
        "bound": fault.gap,
        "clients": CLIENTS,
        "plain_clients": PLAIN_CLIENTS,
        "delay": DELAY,
        "cluster": installed.driver.name,
        "machine": report.machine(),
        **seen,
    }


def measure_undisturbed(fault: Fault, installed: Installed, folder: Path) -> dict[str, Any]:
    """The row, measured once more where Pods that do not ask were held up as well: that was not the fault's doing."""
    row = measure(fault, installed, folder)
    if row["plain"]["slowest"] <= HELD_UP or fault.loses_a_node:  # a node is lost once
        return row
    sys.stderr.write(f"\n{report.line_of(row)}the machine was held up: once more\n")
    fault.after(installed)
    installed.wait_until_settled()
    fault.before(installed)
    return measure(fault, installed, folder)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace("`", "").replace(" ", "-"))
def test_creations_go_on(fault: Fault, installed: Installed, places: None, folder: Path) -> None:
    installed.wait_until_settled()
    fault.before(installed)
    row = measure_undisturbed(fault, installed, folder)
    fault.after(installed)
    report.record(RESULTS, row)
    sys.stderr.write(f"\n{report.line_of(row)}{report.failures([row])}")

    asking, plain = row["asking"], row["plain"]
    assert row["conflicts"] == []
    assert asking["creations"] > fault.seconds
    assert asking["longest_gap"] <= fault.gap
    match fault.may_fail:
        case Failures.NONE:
            assert asking["failed"] == 0
        case Failures.INSIDE_THE_GAP:
            assert asking["failed_outside_gap"] == 0
        case Failures.UNTIL_IT_IS_BACK:
            assert asking["last_failure"] <= DELAY + fault.gap
    assert plain["failed"] == 0
    assert plain["slowest"] < NEVER_DELAYED
    if not fault.loses_a_node:
        installed.wait_until_settled()
