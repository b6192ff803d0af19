"""README and pages: the verbs and files that they name are there. What they tell to type is typed by tests/e2e, tests/helm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from allocator.journal.sqlite import SqliteJournal
from bench.stalls import ROWS, nothing
from testing.documented import (
    CODE_BLOCK,
    PAGES,
    ROOT,
    UNTYPED,
    DocumentedCommand,
    commands,
    documented,
    modules,
    paths,
    typed_by,
)


def test_commands_of_several_lines_are_read_whole() -> None:
    text = '$ kubectl get x \\\n  -o y\nmake run\nfor each:\nkubectl create --from="$(\n  kubectl get)"\nhelm test |\n  cat\n'

    assert commands(text) == [
        "kubectl get x \\\n  -o y", "make run", 'kubectl create --from="$(\n  kubectl get)"', "helm test |\n  cat",
    ]  # fmt: skip


def test_every_command_is_typed_by_a_test_or_has_a_reason_why_not() -> None:
    assert {
        command.text for command in documented() if not (command.typist or command.text.startswith(tuple(UNTYPED)))
    } == set()
    assert {start for start in UNTYPED if not documented(start)} == set()


HERE = typed_by("tests/test_docs.py")
PYTHON = [command for command in HERE if command.text.startswith("python ")]


@pytest.mark.parametrize("command", PYTHON, ids=lambda command: f"{command.page} {command.text}")
def test_a_documented_command_for_python_works(command: DocumentedCommand, tmp_path: Path) -> None:
    """Beside a journal that is sound. What would write into the checkout is asked what it does."""
    SqliteJournal(tmp_path / "journal.db").open_now().close()
    text = command.text.replace("/var/lib/hostport/", "").replace("--release", "--help")
    text = (
        re.sub(r"\b(PATH|COPY)\b", "journal.db", text)
        .replace("TARGET", "target.db")
        .replace("proto/", f"{ROOT}/proto/")
    )

    done = subprocess.run(
        [sys.executable, *text.split()[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, ""), f"{command.page}: {command.text}"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize(
    "command",
    [command for command in HERE if command not in PYTHON],
    ids=lambda command: f"{command.page} {command.typed}",
)
def test_a_documented_verb_is_there_and_takes_what_it_is_given(command: DocumentedCommand) -> None:
    """`make -n` tells what would be done. A builder is named, so that none is looked for."""
    text = command.text.replace("make ", "make -n BUILDER=docker ", 1)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    done = subprocess.run(["bash", "-ec", text], cwd=ROOT, capture_output=True, text=True, check=False, env=environ)

    assert (done.returncode, done.stderr) == (0, ""), f"{command.page}: {command.text}"
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files_that_are_there(page: Path) -> None:
    """Their anchors are looked at by `make site`."""
    text = CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = {target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target}

    assert {target for target in targets if not (page.parent / target).exists()} == set()


def test_the_verb_that_builds_the_site_takes_a_dead_link_for_an_error() -> None:
    """`--quiet` keeps warnings from --strict, which counts them."""
    (command,) = re.findall(r"mkdocs build .*", (ROOT / "Makefile").read_text(encoding="utf-8"))

    assert command == "mkdocs build --strict"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    assert [path for path in paths(page) if not ((ROOT / path).exists() or (ROOT / f"{path}.py").exists())] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_modules_that_a_page_names_are_there(page: Path) -> None:
    """The design names modules without the folder that its table says."""
    folders = (
        "allocator",
        "shim",
        "agent",
        "hostport",
        "hostport_cli",
        "testing",
        "tests",
        "bench",
        "examples",
        "deploy",
        "proto",
    )
    ours = [f"/{path.relative_to(ROOT)}" for folder in folders for path in (ROOT / folder).rglob("*.py")]

    assert [name for name in modules(page) if not any(path.endswith(f"/{name}") for path in ours)] == []


def test_the_values_that_a_page_names_are_values_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "deploy/chart/hostport-operator/values.yaml").read_text(encoding="utf-8"))
    groups = "|".join(name for name, value in values.items() if isinstance(value, dict))
    named = {
        name for page in PAGES for name in re.findall(rf"`((?:{groups})\.[A-Za-z.]+)[:`= ]", page.read_text("utf-8"))
    }

    missing = {
        name for name in named if not is_value(values, name) and not name.endswith((".py", ".md", ".yaml", ".json"))
    }
    assert len(named) > 10
    assert missing == set()


def is_value(values: Any, name: str) -> bool:
    first, _, rest = name.partition(".")
    return isinstance(values, dict) and first in values and (not rest or is_value(values[first], rest))


def test_readme_says_what_the_manifests_request() -> None:
    cpu = memory = 0
    for path in (ROOT / "deploy/base").glob("*.yaml"):
        for each in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if each["kind"] == "Deployment":
                for container in each["spec"]["template"]["spec"]["containers"]:
                    asked = container["resources"]["requests"]
                    cpu += each["spec"]["replicas"] * int(asked["cpu"].removesuffix("m"))
                    memory += each["spec"]["replicas"] * int(asked["memory"].removesuffix("Mi"))

    assert f"request {cpu}m CPU and {memory} MiB" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_shows_what_it_is_and_two_commands_on_its_first_screen() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:24]

    assert [line.split()[1] for line in first if line.startswith("make ")] == ["run", "test"]
    assert any("→ 10000" in line for line in first)


def test_the_proofs_count_the_heavy_inputs_of_the_bench() -> None:
    heavy = [row for row in ROWS if row is not nothing]

    assert f"for each of {len(heavy)} heavy inputs" in (ROOT / "docs/proof.md").read_text(encoding="utf-8")


def test_every_verb_of_the_makefile_is_listed_by_make() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split())

    assert set(re.findall(r"^([a-z0-9-]+):", text, re.MULTILINE)) == phony


def test_the_workflows_call_verbs_that_are_there() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[0].split()
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
    called = {verb for path in workflows for verb in re.findall(r"run: make ([a-z0-9-]+)", path.read_text("utf-8"))}

    assert {"check", "site", "test", "packages", "release", "browser", "images"} == called
    assert called <= set(phony)
