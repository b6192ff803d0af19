"""What a release says of itself is one: its version, and the address of its pages."""

from __future__ import annotations

import re
import tomllib

import yaml

from hostport import version
from hostport.version import DOCS
from testing.documented import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION: str = PROJECT["version"]
CHART = yaml.safe_load((ROOT / "deploy/chart/hostport-operator/Chart.yaml").read_text(encoding="utf-8"))
SEMANTIC = r"\d+\.\d+\.\d+(-(alpha|beta|rc)\.\d+)?"  # of semantic versioning, what PEP 440 takes as well


def site_url() -> str:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return str(re.findall(r"^site_url: (\S+)", text, re.MULTILINE)[0])


def test_pip_and_helm_both_take_the_version() -> None:
    assert re.fullmatch(SEMANTIC, VERSION)


def test_the_programs_tell_that_version_as_pip_writes_it() -> None:
    assert re.sub(r"-(a|b|rc)(?:lpha|eta)?\.", r"\1", VERSION) == version.VERSION


def test_the_chart_has_the_version_of_the_package() -> None:
    assert (CHART["version"], CHART["appVersion"]) == (VERSION, VERSION)
    assert CHART["annotations"]["artifacthub.io/prerelease"] == str("-" in VERSION).lower()


def test_the_manifests_have_that_version() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "deploy/base").glob("*.yaml")]
    found = {each for text in texts for each in re.findall(r"kubernetes\.io/version: \"(.*)\"", text)}

    assert found == {VERSION}


def test_the_changelog_tells_of_this_version_and_of_what_came_after_it() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == VERSION
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", headings[1][1])


def test_readme_and_upgrade_name_the_version() -> None:
    assert VERSION in (ROOT / "README.md").read_text(encoding="utf-8")
    assert VERSION in (ROOT / "docs/upgrade.md").read_text(encoding="utf-8")


def test_the_contract_of_the_version_is_kept() -> None:
    assert (ROOT / f"proto/released/hostport-v1-{VERSION}.binpb").is_file()


def test_every_link_to_the_published_pages_begins_with_the_address_in_mkdocs_yml() -> None:
    """Where that address changes, these have to follow."""
    values = yaml.safe_load((ROOT / "deploy/chart/hostport-operator/values.yaml").read_text(encoding="utf-8"))
    template = (ROOT / "deploy/chart/hostport-operator/templates/alerts.yaml").read_text(encoding="utf-8")
    alerts = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text(encoding="utf-8"))
    runbooks = f"{site_url()}runbooks.html"

    assert site_url() == DOCS
    assert PROJECT["urls"] == {"Documentation": DOCS, "Changelog": f"{DOCS}changelog.html"}
    assert CHART["home"] == DOCS
    assert values["alerts"]["runbooks"] == runbooks
    assert f'"{runbooks}#"' in template
    for group in alerts["spec"]["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook_url"].startswith(f"{runbooks}#")


def test_what_artifact_hub_shows_is_in_the_chart() -> None:
    annotations = CHART["annotations"]
    changes = yaml.safe_load(annotations["artifacthub.io/changes"])
    images = {each["name"]: each["image"] for each in yaml.safe_load(annotations["artifacthub.io/images"])}
    crds = yaml.safe_load(annotations["artifacthub.io/crds"])

    assert {each["kind"] for each in changes} <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert images == {
        f"hostport-{part}": f"localhost/hostport-operator-{part}:{VERSION}" for part in ("allocator", "shim", "agent")
    }
    assert [(each["kind"], each["version"]) for each in crds] == [("PortLease", "v1alpha1")]
    assert {"category", "license", "links", "operator", "operatorCapabilities"} <= {
        name.removeprefix("artifacthub.io/") for name in annotations
    }
