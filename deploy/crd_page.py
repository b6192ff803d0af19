"""docs/portlease.md from the CustomResourceDefinition: python deploy/crd_page.py > docs/portlease.md"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).resolve().parent / "base" / "portlease-crd.yaml"

HEAD = """\
<!-- Rendered by `make docs` from deploy/base/portlease-crd.yaml. Do not edit. -->
# PortLease: reference of the CustomResourceDefinition

{about}

You read and delete PortLeases; the allocator makes and renews them, and deletes those that have ended. [Lease ports
from a program](leasing.md) explains how to get one. The status is what makes an object a lease, and only the allocator
may write it. A ResourceQuota bounds them as `count/portleases.hostport.io`.
[Upgrade](upgrade.md#portlease-from-v1alpha1-to-v1) has the plan for `v1`.

```
kubectl get portleases --all-namespaces -o wide
kubectl explain portleases.status
```

| | |
|---|---|
| API version | `{group}/{version}` |
| kind, plural | `{kind}`, `{plural}` |
| scope | {scope} |
| subresources | {subresources} |

## Example

```yaml
{example}```

## What kubectl get shows

| column | field | |
|---|---|---|
"""


EXAMPLE = """\
apiVersion: hostport.io/v1alpha1
kind: PortLease
metadata:
  name: r1-3f2a9c01b7
  namespace: media
spec:
  allocationID: 3f2a9c01b7d84e5c9a1f0b2c3d4e5f60
  owner: {kind: Relay, name: r1, description: relay of the EU lobby}
status:
  node: n1
  ports:
  - {name: media, protocol: UDP, hostPort: 21000}
  portSummary: 21000/UDP
  expires: "2026-11-24T23:10:12Z"
  secondsLeft: 3600
  ttlSeconds: 3600
  conditions:
  - type: Granted
    status: "True"
    reason: Granted
    message: The ports are held on the node until the lease ends.
    lastTransitionTime: "2026-11-24T22:10:12Z"
"""
"""One as the allocator makes it. Tests hold it against the schema."""


def page(definition: Mapping[str, Any]) -> str:
    """The page. Takes a CustomResourceDefinition of one version, as YAML has it."""
    spec = definition["spec"]
    (version,) = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    lines = [
        HEAD.format(
            about=schema["description"],
            group=spec["group"],
            version=version["name"],
            kind=spec["names"]["kind"],
            plural=spec["names"]["plural"],
            scope=spec["scope"],
            example=EXAMPLE,
            subresources=", ".join(f"`{name}`" for name in version["subresources"]),
        ).rstrip("\n")
    ]
    for column in version["additionalPrinterColumns"]:
        note = column.get("description", "") + (" With `-o wide`." if column.get("priority") else "")
        lines.append(f"| {column['name']} | `{column['jsonPath']}` | {note.strip()} |")
    for part in ("spec", "status"):
        field = schema["properties"][part]
        lines += ["", f"## {part}", "", field["description"], ""]
        for rule in field.get("x-kubernetes-validations", ()):
            lines += [f"The API server refuses a change: *{rule['message']}*.", ""]
        lines += ["| field | type | |", "|---|---|---|", *rows(field, part)]
    return "\n".join(lines) + "\n"


def rows(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """A row for each field below an object, children after their parent. Gives lines of a table of Markdown."""
    for name, field in schema.get("properties", {}).items():
        inner = field.get("items", field)
        is_list = field["type"] == "array"
        where = f"{path}.{name}{'[]' * is_list}"
        kind = f"list of {inner['type']}" if is_list else field["type"]
        says = [field.get("description", ""), *bounds(field)]
        if name in schema.get("required", ()):
            says.append("Required.")
        yield f"| `{where}` | {kind} | {' '.join(filter(None, says))} |"
        yield from rows(inner, where)


def bounds(field: Mapping[str, Any]) -> Iterator[str]:
    """What the schema lets in, in sentences."""
    if "enum" in field:
        yield f"One of {', '.join(f'`{value}`' for value in field['enum'])}."
    if "pattern" in field:
        yield f"Matches `{field['pattern']}`."
    if "minimum" in field:
        yield f"{field['minimum']} to {field['maximum']}."
    if "maxLength" in field:
        yield f"At most {field['maxLength']} characters."
    if "maxItems" in field:
        yield f"At most {field['maxItems']}."
    if field.get("format") in {"date-time", "byte"}:
        yield {"date-time": "A time, RFC 3339.", "byte": "Base64."}[field["format"]]


if __name__ == "__main__":
    sys.stdout.write(page(yaml.safe_load(SOURCE.read_text(encoding="utf-8"))))
