"""Creates a Pod with the annotation as a dry run, and exits with 0 if it came back with a host port.

Runs in the Pod of `helm test`, with the standard library alone. What the API server said is printed whatever happens.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

account = Path(os.environ["ACCOUNT"])
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
host = f"[{host}]" if ":" in host else host

pod = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "generateName": "hostport-test-",
        "labels": json.loads(os.environ.get("TEST_LABELS") or "{}"),
        "annotations": {
            "hostport.io/enabled": "true",
            "hostport.io/policy": "Dynamic",
            "hostport.io/network": "Host",
        },
    },
    "spec": {"containers": [{"name": "main", "image": "none", "ports": [{"name": "web", "containerPort": 8080}]}]},
}
request = urllib.request.Request(
    f"https://{host}:{port}/api/v1/namespaces/{os.environ['TEST_NAMESPACE']}/pods?dryRun=All",
    json.dumps(pod).encode(),
    {"Content-Type": "application/json", "Authorization": f"Bearer {(account / 'token').read_text()}"},
)
try:
    trusted = ssl.create_default_context(cafile=account / "ca.crt")
    with urllib.request.urlopen(request, context=trusted, timeout=30) as answer:
        made = json.load(answer)
except urllib.error.HTTPError as error:
    sys.exit(f"refused: {json.load(error).get('message')}")

given = made["spec"]["containers"][0]["ports"][0].get("hostPort")
if not given or not made["spec"].get("hostNetwork"):
    sys.exit(
        "the API server did not call the webhook: the Pod came back without a host port. Do test.namespace and"
        " test.labels fit the webhook's namespaceSelector and objectSelector?"
    )
print(f"the Pod would get host port {given}")
