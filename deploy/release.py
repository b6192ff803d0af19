"""What a release consists of: python deploy/release.py FOLDER

install.yaml (the default overlay as one file, made by helm template), the packaged chart, wheel and sdist, the bills of
materials that `make sbom` wrote, the plug-in for krew with its manifest, and SHA256SUMS over all of them. The folder is
emptied first. Files have the time of the last commit (or SOURCE_DATE_EPOCH), so that another checkout of the commit
gives the same bytes, the sdist apart. Without Helm, chart and install.yaml are left out, and one line says so.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import render
import site_pages
import yaml

from hostport.version import DOCS, VERSION

BILLS = render.CHECKOUT / "build" / "sbom"
PACKAGES = ("agent", "allocator", "shim", "hostport", "hostport_cli")
EXAMPLE = "localhost/hostport-operator"
"""Where images are said to be, unless $IMG_REPOSITORY says where they were pushed."""


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", commit_time())
    if program := render.helm():
        install(program, folder / "install.yaml")
        chart(program, folder)
    else:
        sys.stderr.write("install.yaml and the chart: no helm here ($HELM, PATH, .cache/tools): left out\n")
    packages(folder)
    krew(folder)
    for bill in sorted(BILLS.glob("*.cdx.json")):
        shutil.copy(bill, folder)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    sys.stdout.write("".join(sums))
    return 0


def commit_time() -> str:
    """Seconds of the epoch, as text. Of a tree without git: that of its changelog."""
    command = ["git", "-C", str(render.CHECKOUT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or str(int((render.CHECKOUT / "CHANGELOG.md").stat().st_mtime))


def install(program: str, target: Path) -> None:
    """Namespace first, then what helm template makes, in its order. `image.repository` comes from $IMG_REPOSITORY."""
    namespace = (render.DEPLOY / "base" / "namespace.yaml").read_text(encoding="utf-8")
    text = "---\n".join([namespace, *render.rendered(program).values()])
    target.write_text(text.replace(f"{EXAMPLE}-", f"{repository()}-"), encoding="utf-8")


def chart(program: str, folder: Path) -> None:
    """The chart as Helm packages it; `image.repository` in it comes from $IMG_REPOSITORY."""
    copy = folder / "chart" / render.CHART.name
    shutil.copytree(render.CHART, copy)
    for name in ("values.yaml", "Chart.yaml"):
        file = copy / name
        file.write_text(file.read_text(encoding="utf-8").replace(EXAMPLE, repository()), encoding="utf-8")
    readme = copy / "README.md"
    readme.write_text(linked(readme.read_text(encoding="utf-8"), "../../../"), encoding="utf-8")
    moment = int(os.environ["SOURCE_DATE_EPOCH"])
    for file in [copy, *copy.rglob("*")]:
        os.utime(file, (moment, moment))
    subprocess.run([program, "package", str(copy), "--destination", str(folder)], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(copy.parent)


def repository() -> str:
    return os.environ.get("IMG_REPOSITORY", EXAMPLE)


def packages(folder: Path) -> None:
    """Wheel and sdist, by the build back end of this environment: no package index is asked.

    They are built of a copy, whose README links to the published pages.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in PACKAGES:
            shutil.copytree(render.CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy2(render.CHECKOUT / name, copy)
        (copy / "README.md").write_text(linked((copy / "README.md").read_text(encoding="utf-8"), ""), encoding="utf-8")
        for hook in ("build_wheel", "build_sdist"):
            code = (
                f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]), file=sys.stderr)"
            )
            command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
            subprocess.run(command, cwd=copy, check=True, capture_output=True)


def linked(text: str, root: str) -> str:
    """A text whose links lead to the published pages, as it is read away from the checkout.

    `root` is how the text names the top of the checkout: `../../../` or nothing. Links to files that are no pages stay.
    """
    for page, source in site_pages.OUTSIDE.items():
        text = text.replace(f"]({root}{source}", f"]({DOCS}{page.removesuffix('.md')}.html")
    text = re.sub(rf"\]\({re.escape(root)}docs/([\w-]+)\.md", rf"]({DOCS}\1.html", text)
    return re.sub(rf"\]\({re.escape(root)}docs/images/", f"]({DOCS}images/", text)


LAUNCHER = """\
#!/bin/sh
# kubectl hostport, from the wheel of its release: by uv or pipx, whichever is here.
package='hostport-operator[cli] @ {wheel}'
if command -v uvx >/dev/null; then exec uvx --from "$package" kubectl-hostport "$@"; fi
if command -v pipx >/dev/null; then exec pipx run --spec "$package" kubectl-hostport "$@"; fi
echo "kubectl hostport: install uv or pipx, by which it runs, or: pip install '$package'" >&2
exit 1
"""
CAVEATS = "It runs by uv or pipx, which fetch the wheel of this release. Begin with `kubectl hostport check`."


def krew(folder: Path) -> None:
    """The plug-in for krew: an archive with a launcher, and the manifest that names it.

    grpcio is built for each kind of machine, so that the archive holds no program. Wheel and archive are fetched from
    where the files of this release are: $RELEASE_URL.
    """
    archive = folder / "kubectl-hostport.tar.gz"
    moment = int(os.environ["SOURCE_DATE_EPOCH"])
    licence = (render.CHECKOUT / "LICENSE").read_bytes()
    launcher = LAUNCHER.replace("{wheel}", f"{address()}/hostport_operator-{VERSION}-py3-none-any.whl").encode()
    with (
        archive.open("wb") as sink,
        gzip.GzipFile("", "wb", fileobj=sink, mtime=moment) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, mode, content in (("kubectl-hostport", 0o755, launcher), ("LICENSE", 0o644, licence)):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), mode, moment
            tar.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (folder / "hostport.yaml").write_text(yaml.safe_dump(manifest(digest), sort_keys=False), encoding="utf-8")


def address() -> str:
    """Where the files of this release are, unless $RELEASE_URL says it."""
    return os.environ.get("RELEASE_URL", f"{DOCS}releases/v{render.version()}")


def manifest(digest: str) -> dict[str, Any]:
    """What krew reads (krew.googlecontainertools.github.com/v1alpha2)."""
    platform = {
        "selector": {"matchExpressions": [{"key": "os", "operator": "In", "values": ["linux", "darwin"]}]},
        "uri": f"{address()}/kubectl-hostport.tar.gz",
        "sha256": digest,
        "bin": "kubectl-hostport",
    }
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "hostport"},
        "spec": {
            "version": f"v{render.version()}",
            "homepage": DOCS,
            "shortDescription": "See who holds host ports, and why",
            "description": "Who holds which host port, why a Pod has none, and what is broken in an installation.",
            "caveats": CAVEATS,
            "platforms": [platform],
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
