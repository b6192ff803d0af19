"""`make release`: what it makes of the chart is what people install."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
import release
import render
import yaml

from helm.helm import CHART, Helm


def test_install_yaml_is_the_default_overlay_with_the_images_of_the_release(
    helm: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMG_REPOSITORY", "registry.example/team/hostport-operator")

    release.install(helm.program, tmp_path / "install.yaml")

    text = (tmp_path / "install.yaml").read_text(encoding="utf-8")
    base = [each for path in (render.DEPLOY / "base").glob("*.yaml") for each in yaml.safe_load_all(path.read_text())]
    made = list(yaml.safe_load_all(text))
    assert made[0]["kind"] == "Namespace"
    assert names(made) == names([each for each in base if each["kind"] != "Kustomization"])
    assert "localhost/" not in text
    assert "image: registry.example/team/hostport-operator-shim:" in text


def names(objects: list[dict[str, object]]) -> set[str]:
    return {f"{each['kind']} {each['metadata']['name']}" for each in objects}  # type: ignore[index]


def test_the_packaged_chart_is_the_same_whenever_it_is_made(
    helm: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("IMG_REPOSITORY", "registry.example/team/hostport-operator")

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        release.chart(helm.program, tmp_path / folder)

    (one,), (two,) = ((tmp_path / folder).iterdir() for folder in ("one", "two"))
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"]
    assert one.name == f"hostport-operator-{version}.tgz"
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as archive:
        values = archive.extractfile("hostport-operator/values.yaml")
        assert values
        assert yaml.safe_load(values)["image"]["repository"] == "registry.example/team/hostport-operator"


@pytest.mark.parametrize(
    ("file", "root"), [("README.md", ""), ("deploy/chart/hostport-operator/README.md", "../../../")]
)
def test_links_of_what_is_published_lead_to_pages_of_the_site(file: str, root: str) -> None:
    text = release.linked((render.CHECKOUT / file).read_text(encoding="utf-8"), root)

    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("#")]
    assert links
    assert {link for link in links if not link.startswith("https://hostport.io/docs/")} <= {
        "examples/distributed-db.yaml"
    }


PLATFORMS = (render.CHECKOUT / "docs" / "platforms.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PLATFORMS, re.DOTALL))
def test_the_values_that_the_page_of_platforms_shows_are_taken(helm: Helm, tmp_path: Path, block: str) -> None:
    """What is an object is no value, and is told by its kind."""
    if "kind:" in block:
        assert yaml.safe_load(block)["kind"] == "ResourceQuota"
        return
    (tmp_path / "values.yaml").write_text(block, encoding="utf-8")

    made = render.rendered(helm.program, tmp_path / "values.yaml")

    assert "shim.yaml" in made
