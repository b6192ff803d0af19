"""The Helm chart, made from deploy/base and its overlays, which stay the source: `make docs` writes it, `make check`
holds it to them.

    python deploy/chart/chart.py [--check]

The text of a manifest is kept, with its comments. `edits.py` says which values become values of the chart,
`overlays.py` makes the overlays' patches conditions on `certificates.mode`, `values.py` tells every value. An object
that is new in deploy/base is in the chart at once; an edit whose place is gone is an error that names it. The Namespace
alone is left out: Helm makes it. What has no manifest (helpers, NOTES, the test) stands in hostport-operator/templates
by hand.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from edits import EDITS, KINDS, NARROWED, OPTIONAL, labels
from overlays import CERT_MANAGER, DEPLOY, Patch, matches, overlay_patches, patched
from spans import Document, Missing, as_template, documents
from values import markdown, schema_json, values, values_yaml

HERE = Path(__file__).resolve().parent
CHART = HERE / "hostport-operator"
CHECKOUT = DEPLOY.parent
CONDITIONS = {
    DEPLOY / "monitoring" / "alerts.yaml": ".Values.alerts.enabled",
    DEPLOY / "overlays" / "cert-manager" / "certificates.yaml": CERT_MANAGER,
    DEPLOY
    / "overlays"
    / "fail-open"
    / "ports-given.yaml": 'and .Values.admissionPolicies.enabled (eq .Values.failurePolicy "Ignore")',
}
"""What is in the chart beside deploy/base, and when."""

NAMESPACE = "hostport-system"
MADE = "Made from {} by deploy/chart/chart.py. Do not edit."


def chart() -> dict[str, str]:
    """Every generated file of the chart, by its path in it."""
    return templates() | described()


def templates() -> dict[str, str]:
    """One file for each of deploy/base, and one for each that is there under a condition of its own."""
    found = {file: objects(file) for file in base_files()}
    extra = {file: objects(file) for file in CONDITIONS}
    names = {(document.kind, document.name) for each in (*found.values(), *extra.values()) for document in each}
    if unused := sorted(f"{kind} {name}" for kind, name in set(EDITS) - names):
        raise Missing(f"deploy/base has no {', '.join(unused)}")
    patches = list(overlay_patches())
    made = {f"templates/{file.name}": page(file, each, patches) for file, each in found.items() if each}
    return made | {f"templates/{file.name}": page(file, each, (), CONDITIONS[file]) for file, each in extra.items()}


def base_files() -> list[Path]:
    base = DEPLOY / "base"
    kustomization = yaml.safe_load((base / "kustomization.yaml").read_text(encoding="utf-8"))
    return [base / name for name in kustomization["resources"]]


def objects(file: Path) -> list[Document]:
    """What of a file is in the chart."""
    return [each for each in documents(file.read_text(encoding="utf-8")) if each.kind != "Namespace"]


def page(file: Path, found: Sequence[Document], patches: Sequence[Patch], condition: str = "") -> str:
    text = as_template("---\n".join(template(document, patches, condition) for document in found))
    head = f"{{{{/* {MADE.format(file.relative_to(CHECKOUT))} */}}}}\n"
    return head + text.replace(NAMESPACE, "{{ .Release.Namespace }}")


def template(document: Document, patches: Sequence[Patch], condition: str) -> str:
    """The text of one object, with everything that the chart makes of it."""
    condition = condition or OPTIONAL.get(document.kind, "")
    for edit in (*EDITS.get((document.kind, document.name), ()), *KINDS.get(document.kind, ())):
        edit(document)
    for patch, when in patches:
        if matches(patch["target"], document):
            condition = patched(document, patch["patch"], when) or condition
    labels(document)
    if narrower := NARROWED.get((document.kind, document.name)):
        condition = f"and ({condition}) ({narrower})"
    if condition:
        document.wrap_all(f"if {condition}")
    return document.edited()


def described() -> dict[str, str]:
    """Chart.yaml, and what comes from the table of values."""
    table = values(resources())
    readme = (HERE / "README.in.md").read_text(encoding="utf-8")
    return {
        "values.yaml": values_yaml(table, f"# {MADE.format('deploy/chart/values.py')}"),
        "values.schema.json": schema_json(table),
        "README.md": readme.replace("VALUES\n", "\n".join(markdown(table)) + "\n"),
        "Chart.yaml": chart_yaml(),
    }


def resources() -> dict[str, Any]:
    """Of each program, as deploy/base has them."""
    every = [each for file in base_files() for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    return {
        each["metadata"]["name"].removeprefix("hostport-"): each["spec"]["template"]["spec"]["containers"][0][
            "resources"
        ]
        for each in every
        if each["kind"] == "Deployment"
    }


def chart_yaml() -> str:
    source = (HERE / "Chart.in.yaml").read_text(encoding="utf-8")
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return source.replace("VERSION", version)


def stale(made: Mapping[str, str]) -> list[str]:
    """Files of the chart that are not what they should be, or should be there no more."""
    there = {str(file.relative_to(CHART)): file for file in CHART.rglob("*") if file.is_file()}
    changed = [name for name, text in made.items() if name not in there or there[name].read_text("utf-8") != text]
    return changed + [name for name in there if name not in made and is_made(there[name])]


def is_made(file: Path) -> bool:
    return file.read_text(encoding="utf-8").startswith(f"{{{{/* {MADE.partition('{')[0]}")


def main() -> int:
    made = chart()
    names = stale(made)
    if "--check" in sys.argv[1:]:
        if names:
            sys.stderr.write(f"the Helm chart is stale ({', '.join(sorted(names))}): run make docs\n")
        return 1 if names else 0
    for name in names:
        if name in made:
            (CHART / name).write_text(made[name], encoding="utf-8")
        else:
            (CHART / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
