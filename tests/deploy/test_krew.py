"""The plug-in for krew: an archive with a launcher that runs the command line by what is there, and its manifest."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import release
import yaml

from hostport.version import VERSION

STAND_IN = '#!/bin/sh\necho "$(basename "$0")" "$@"\n'


WHERE = "https://releases.example/v1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    monkeypatch.setenv("RELEASE_URL", WHERE)
    release.krew(tmp_path)
    return tmp_path


def run(folder: Path, *programs: str) -> tuple[int, str, str]:
    """The launcher as krew unpacks it, on a machine that has these programs."""
    (there := folder / "there").mkdir()
    with tarfile.open(folder / "kubectl-hostport.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (there / "basename").symlink_to("/usr/bin/basename")
    for name in programs:
        (there / name).write_text(STAND_IN, encoding="utf-8")
        (there / name).chmod(0o755)
    command = ["/bin/sh", str(folder / "kubectl-hostport"), "list", "-A"]
    done = subprocess.run(command, env={"PATH": str(there)}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


PACKAGE = f"hostport-operator[cli] @ {WHERE}/hostport_operator-{VERSION}-py3-none-any.whl"


@pytest.mark.parametrize(
    ("programs", "ran"),
    [
        (("uvx", "pipx"), f"uvx --from {PACKAGE} kubectl-hostport list -A\n"),
        (("pipx",), f"pipx run --spec {PACKAGE} kubectl-hostport list -A\n"),
    ],
    ids=["uv", "pipx"],
)
def test_the_plug_in_runs_the_package_of_its_release(folder: Path, programs: tuple[str, ...], ran: str) -> None:
    assert run(folder, *programs) == (0, ran, "")


def test_without_either_it_says_what_to_install(folder: Path) -> None:
    code, out, err = run(folder)

    assert (code, out, err.count("\n"), "install uv or pipx" in err) == (1, "", 1, True)


def test_the_manifest_names_the_archive_by_its_digest(folder: Path) -> None:
    manifest = yaml.safe_load((folder / "hostport.yaml").read_text(encoding="utf-8"))
    (platform,) = manifest["spec"]["platforms"]

    assert platform["sha256"] == hashlib.sha256((folder / "kubectl-hostport.tar.gz").read_bytes()).hexdigest()
    assert platform["uri"] == f"{WHERE}/kubectl-hostport.tar.gz"
    with tarfile.open(folder / "kubectl-hostport.tar.gz") as archive:
        assert platform["bin"] in archive.getnames()


def test_the_wheel_that_the_plug_in_runs_is_one_of_the_release(folder: Path) -> None:
    release.packages(folder)
    assert [path.name for path in folder.glob("*.whl")] == [PACKAGE.rpartition("/")[2]]


def test_the_same_commit_gives_the_same_archive(folder: Path, tmp_path: Path) -> None:
    (again := tmp_path / "again").mkdir()
    release.krew(again)

    assert (again / "hostport.yaml").read_bytes() == (folder / "hostport.yaml").read_bytes()
    assert os.environ["SOURCE_DATE_EPOCH"] == "1000000000"
