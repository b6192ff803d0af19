"""The API server's own metrics by the names that alerts and dashboard ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path

from e2e.api import Kubectl
from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane
from e2e.manifests import hostport, pod, port
from e2e.product import Product

QUERIES = [CHECKOUT / "deploy" / "monitoring" / name for name in ("alerts.yaml", "dashboard.json")]
FAILS_OPEN = "apiserver_admission_webhook_fail_open_count"


def asked_for(paths: list[Path]) -> set[str]:
    return set(re.findall(r"apiserver_[a-z_]+", " ".join(path.read_text(encoding="utf-8") for path in paths)))


def test_the_api_server_has_the_metrics_that_alerts_and_dashboard_ask_for(
    plane: ControlPlane, product: Product, kubectl: Kubectl
) -> None:
    kubectl("create", "-f", "-", stdin=json.dumps(pod("plain", {}, port(80))))
    kubectl("create", "-f", "-", stdin=json.dumps(pod("web-0", hostport(min_port=22300), port(80))))
    assert kubectl.run("create", "-f", "-", stdin=json.dumps(pod("web", hostport(), port(80)))).code == 1
    config = "mutatingwebhookconfiguration/hostport-operator"

    def set_policy(value: str) -> None:
        change = [{"op": "replace", "path": "/webhooks/1/failurePolicy", "value": value}]
        plane.kubectl("patch", config, "--type=json", "-p", json.dumps(change))

    set_policy("Ignore")
    product.shim.stop()
    try:
        kubectl("create", "-f", "-", stdin=json.dumps(pod("open-0", hostport(min_port=22400), port(80))))
    finally:
        product.shim.start()
        set_policy("Fail")

    told = plane.kubectl("get", "--raw", "/metrics").stdout
    ours = {line.partition("{")[0] for line in told.splitlines() if 'name="pods.hostport.io"' in line}

    assert asked_for(QUERIES) <= ours
