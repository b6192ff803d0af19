"""What is made from the Helm chart: deploy/base, the overlays, the table of its README, its version (that of
pyproject.toml), its copies of the alerts and of the dashboard.

    python deploy/render.py [--check]

The chart in deploy/chart/hostport-operator is the source and written by hand. deploy/base is what `helm template` makes
of its values as they are, one file for each template; an overlay is what it makes of the overlay's values.yaml. So
`make deploy` needs no Helm. The Namespace alone stands in deploy/base by hand: Helm makes one. Helm is looked for in
$HELM, on the PATH and in .cache/tools. Where there is none, what needs it is neither written nor compared, and one line
says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent
CHECKOUT = DEPLOY.parent
CHART = DEPLOY / "chart" / "hostport-operator"
MADE = "# Made from deploy/chart/hostport-operator by deploy/render.py. Do not edit.\n"
SOURCE = "# Source: hostport-operator/templates/"
BY_HAND = "PutYourAuthorityHere"
"""Stands in an overlay's values for what whoever installs it has to write; its line is left out."""

STRICT = """\
    # Both programs live within the strictest profile, so nothing laxer may run beside them.
    pod-security.kubernetes.io/enforce: restricted
"""
LAX = """\
    # The agents are on the nodes' own network, which no stricter profile allows. The others live within the strictest.
    pod-security.kubernetes.io/enforce: privileged
"""
RENDER = ("--namespace=hostport-system", "--no-hooks", "--kube-version=v1.36.0")
TABLE = ("<!-- values: made by make docs -->\n", "<!-- end of the values -->\n")


def helm() -> str | None:
    """The program, if there is one."""
    built = sorted((CHECKOUT / ".cache" / "tools").glob("helm-*"))
    return os.environ.get("HELM") or shutil.which("helm") or (str(built[-1]) if built else None)


def rendered(program: str, *values: Path) -> dict[str, str]:
    """What helm template makes, by the file of the template.

    Raises:
        subprocess.CalledProcessError: the chart cannot be rendered; Helm has said why.

    """
    command = [program, "template", "hostport", str(CHART), *RENDER, *(f"--values={each}" for each in values)]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, str] = {}
    for part in text.removeprefix("---\n").split("\n---\n"):
        head, _, body = part.strip("\n").partition("\n")
        name = head.removeprefix(SOURCE)
        kept = "\n".join(line.rstrip() for line in body.splitlines() if BY_HAND not in line)
        found[name] = f"{found[name]}---\n{kept}\n" if name in found else f"{kept}\n"
    return found


def manifests(program: str) -> dict[Path, str]:
    """deploy/base and the overlays."""
    base = {DEPLOY / "base" / name: MADE + text for name, text in rendered(program).items()}
    namespace = (DEPLOY / "base" / "namespace.yaml").read_text(encoding="utf-8")
    overlays = {
        values.with_name("manifests.yaml"): MADE + _joined(namespace, rendered(program, values))
        for values in sorted(DEPLOY.glob("overlays/*/values.yaml"))
    }
    return base | overlays


def _joined(namespace: str, made: Mapping[str, str]) -> str:
    """One file of the namespace and of what Helm made. Agents are on the nodes' network, which its level must allow."""
    if "agent.yaml" in made:
        namespace = namespace.replace(STRICT, LAX)
    return "---\n".join([namespace, *made.values()])


def version() -> str:
    """That of a release, as semantic versioning has it: tags, charts, images and plug-ins are called by it."""
    return str(tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def described() -> dict[Path, str]:
    """What needs no Helm."""
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition(TABLE[0])
    after = rest.partition(TABLE[1])[2]
    table = "\n".join(markdown((CHART / "values.yaml").read_text(encoding="utf-8")))
    copies = {
        CHART / "files" / name: (DEPLOY / "monitoring" / name).read_text(encoding="utf-8")
        for name in ("alerts.yaml", "dashboard.json")
    }
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    for key, written in (("version", version()), ("appVersion", f'"{version()}"')):
        chart = re.sub(rf"^{key}: .*$", f"{key}: {written}", chart, flags=re.MULTILINE)
    copies[CHART / "Chart.yaml"] = re.sub(r"(image: localhost/\S+):\S+$", rf"\1:{version()}", chart, flags=re.MULTILINE)
    return copies | {CHART / "README.md": f"{before}{TABLE[0]}\n{table}\n\n{TABLE[1]}{after}"}


def markdown(values: str) -> Iterator[str]:
    """The table of a values.yaml, whose values stand on one line each, with their comments above them."""
    yield "| value | default | |"
    yield "|---|---|---|"
    parents: list[str] = []
    words: list[str] = []
    for line in values.splitlines():
        text = line.strip()
        if text.startswith("#"):
            words.append(text.removeprefix("#").strip())
            continue
        if text:
            key, _, default = text.partition(":")
            parents = [*parents[: (len(line) - len(line.lstrip())) // 2], key]
            if default:
                shown = "" if default == ' ""' else f"`{default.strip()}`"
                yield f"| `{'.'.join(parents)}` | {shown} | {' '.join(words)} |"
        words = []


def stale(made: Mapping[Path, str]) -> list[str]:
    """Files that are not what they should be."""
    return [
        str(file.relative_to(CHECKOUT))
        for file, text in made.items()
        if not file.is_file() or file.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    program = helm()
    if program is None:
        sys.stderr.write("deploy/base and overlays: no helm here ($HELM, PATH, .cache/tools): left as they are\n")
    made = described()
    if "--check" not in sys.argv[1:]:
        write(made)  # the chart holds some of it
        write(manifests(program) if program else {})
        return 0
    names = stale(made | (manifests(program) if program else {}))
    if names:
        sys.stderr.write(f"not as the chart says ({', '.join(names)}): run make docs\n")
    return 1 if names else 0


def write(made: Mapping[Path, str]) -> None:
    for file, text in made.items():
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
