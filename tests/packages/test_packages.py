"""The wheel and the sdist, built and installed into fresh virtual environments, one for each extra."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import release

from testing.documented import DocumentedCommand, typed_by

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"


def run(*command: str | Path, folder: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def built(kind: str, source: Path, target: Path) -> Path:
    done = run(sys.executable, "-W", "ignore", "-c", BUILD, kind, target, folder=source)
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git knows, so that a build leaves nothing in the checkout, and finds nothing that is not in it."""
    if shutil.which("git") is None or run("git", "rev-parse", "HEAD").returncode != 0:
        pytest.skip("no checkout of git here")
    folder = tmp_path_factory.mktemp("source")
    archive = folder / "source.tar"
    stash = run("git", "stash", "create").stdout.strip()  # with what is not committed yet
    done = run("git", "archive", "--format=tar", f"--output={archive}", stash or "HEAD")
    assert done.returncode == 0, done.stderr
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "tree", filter="data")
    return folder / "tree"


@pytest.fixture(scope="session")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sdist, so that nothing is missing in that."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as tar:
        tar.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return built("wheel", tree, tmp_path_factory.mktemp("built"))


def test_the_wheel_says_what_it_is_and_has_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(metadata))

    packages = ("agent", "allocator", "hostport", "hostport_cli", "shim")
    assert {f"{name}/py.typed" for name in packages} <= names
    assert "hostport/client/__init__.py" in names
    assert any(name.startswith("allocator/page/assets/") for name in names)
    assert not any(name.startswith(("tests/", "bench/", "deploy/")) for name in names)
    needed = {re.split(r"[<>=]", line)[0] for line in told.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == {"grpcio", "grpcio-status", "protobuf"}
    assert {"agent", "allocator", "cli", "shim"} <= set(told.get_all("Provides-Extra", []))
    assert "Typing :: Typed" in told.get_all("Classifier", [])
    assert told["Keywords"]
    assert told["Project-URL"]


def test_the_wheel_of_a_release_has_the_files_of_the_wheel_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    release.packages(tmp_path)

    (made,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(made) as released, zipfile.ZipFile(wheel) as built_here:
        assert set(released.namelist()) == set(built_here.namelist())


@pytest.mark.parametrize("command", typed_by("tests/packages"), ids=lambda command: f"{command.page} {command.text}")
def test_a_documented_command_works_as_it_stands(source: Path, tmp_path: Path, command: DocumentedCommand) -> None:
    """In a fresh virtual environment that is on the PATH, beside what it is about: a checkout, or the files of a release."""
    venv.create(tmp_path / "venv", with_pip=True)
    folder = source
    if command.text.startswith("sha256sum"):
        folder = tmp_path / "release"
        made = run(sys.executable, CHECKOUT / "deploy" / "release.py", folder)
        assert made.returncode == 0, made.stderr
    environ = os.environ | {"PATH": f"{tmp_path / 'venv' / 'bin'}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "-ec", command.text], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=300
    )

    if command.text.startswith("pip") and "No matching distribution" in done.stderr:
        pytest.skip("no package index here")
    assert done.returncode == 0, done.stdout + done.stderr


IMPORTS = {
    "": (
        "import hostport.client",
        {"grpcio", "grpcio-status", "protobuf", "googleapis-common-protos", "typing_extensions"},
    ),
    "agent": ("import agent.__main__", {"h2"}),
    "cli": ("import hostport_cli.__main__", {"click", "rich", "PyYAML", "msgspec"}),
    "shim": ("import shim.__main__", {"tornado", "uvloop", "msgspec", "prometheus_client"}),
    "allocator": ("import allocator.__main__, allocator.app.lifecycle", {"kubernetes", "cryptography", "tornado"}),
}
"""Extra → what must work with it alone, and packages that come with it."""

SENTENCE = (
    "hostport: the package click is not installed, which the command line needs and the library does not: "
    'pip install "hostport-operator[cli]"\n'
)


@pytest.mark.parametrize("extra", IMPORTS)
def test_each_extra_is_enough_for_what_it_is_named_after(wheel: Path, tmp_path: Path, extra: str) -> None:
    statement, packages = IMPORTS[extra]
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    installed = run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wanted)
    if "No matching distribution" in installed.stderr or "connection" in installed.stderr:
        pytest.skip("no package index here")
    assert installed.returncode == 0, installed.stderr

    done = run(python, "-c", statement, folder=tmp_path)
    command_line = run(python.with_name("hostport"), "--help", folder=tmp_path)
    listed = {line.partition("==")[0] for line in run(python, "-m", "pip", "freeze").stdout.splitlines()}

    assert (done.returncode, done.stderr) == (0, "")
    if extra == "":
        assert {name for name in listed if not name.startswith("hostport")} == packages
        assert (command_line.returncode, command_line.stderr) == (2, SENTENCE)
    else:
        assert packages <= listed
    if extra == "cli":
        assert command_line.returncode == 0
