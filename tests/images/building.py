"""Builds the images with buildah, on a base made here: a stand-in for python:3.14-slim where no registry is reached.

    PYTHONPATH=tests python -m images.building [IMG]     builds through `make images`, prints their names

The base is Debian's Python of the version that the Dockerfiles name, in a minimal tree, made by debootstrap once and kept
in buildah's store; where that release of Debian cannot be had, or has another Python by now, the distribution's own. Needs
root, buildah and debootstrap; whoever asks is told what is missing. Builds share a cache of layers: a second one, with
nothing changed, takes seconds.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pythons import SUITES, python_of

CHECKOUT = Path(__file__).resolve().parents[2]
IMG = "localhost/hostport-operator:dev"
PACKAGES = "python3,python3-pip,ca-certificates"
CA_FILES = ("SSL_CERT_FILE", "PIP_CERT")
STORE = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
"""Works in containers and without a kernel module: slow to copy, but nothing has to be set up."""


class Unavailable(Exception):  # noqa: N818 - a fact about the machine, not a fault
    """This machine cannot build images. The message says what would help."""


class Broken(Exception):  # noqa: N818 - reads as what it says
    """A build failed. The message ends with what it said."""


@dataclass(frozen=True, slots=True)
class Images:
    """The names of the three."""

    allocator: str
    shim: str
    agent: str


def require_tools() -> None:
    """Raises Unavailable where a build cannot work."""
    if os.geteuid() != 0:
        raise Unavailable("only root can make a base image and build on it")
    if missing := [tool for tool in ("buildah", "debootstrap", "make") if shutil.which(tool) is None]:
        raise Unavailable(f"{', '.join(missing)} not installed")


def wanted_python() -> str:
    """The version that the Dockerfiles name, such as 3.14."""
    texts = [path.read_text(encoding="utf-8") for path in CHECKOUT.glob("Dockerfile.*")]
    named = {
        str(each)
        for text in texts
        for each in re.findall(r"^ARG PYTHON_IMAGE=python:([\d.]+)-slim$", text, re.MULTILINE)
    }
    [version] = named
    return version


@cache
def base_image() -> str:
    """The name of the base; made when it is not in buildah's store."""
    own = platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")
    try:
        return _base_image(SUITES[wanted_python()], wanted_python())
    except Broken as reason:  # nobody has it: a base is needed all the same
        sys.stderr.write(f"images: on the Python of {own}, since that of the Dockerfiles cannot be had: {reason}\n")
        return _base_image(own)


def _base_image(suite: str, version: str = "") -> str:
    """`version`: the Python that it is to have; empty: any.

    Raises:
        Broken: the release cannot be had, or has another Python.

    """
    name = f"localhost/hostport-base:{suite}"
    if not _stored(name):
        with tempfile.TemporaryDirectory(prefix="hostport-base-") as folder:
            root = _bootstrapped(Path(folder) / "root", suite)
            if version and (found := python_of(root)) != version:
                raise Broken(f"Debian's {suite} has Python {found or 'none'} now")
            _import(root, name)
    return name


def build(img: str = IMG, base: str | None = None) -> Images:
    """Builds them through the verb that people use, without pulling anything."""
    require_tools()
    run(["make", "-s", "-C", str(CHECKOUT), "images", f"IMG={img}", "BUILDER=buildah", f"BUILD_FLAGS={flags(base)}"])
    name, _, tag = img.rpartition(":")
    return Images(f"{name}-allocator:{tag}", f"{name}-shim:{tag}", f"{name}-agent:{tag}")


def flags(base: str | None = None) -> str:
    """BUILD_FLAGS that build on the base that was made here, and pull nothing."""
    return f"--pull-never --layers --build-arg PYTHON_IMAGE={base or base_image()} {' '.join(_authorities())}"


def run(command: Sequence[str]) -> str:
    """Runs a command on buildah's store and returns what it printed.

    Raises:
        Broken: it failed.

    """
    environ = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MAKELEVEL"}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=environ | STORE)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).splitlines()[-20:]
        raise Broken("\n".join([f"{' '.join(command[:4])}: exit {done.returncode}", *said]))
    return done.stdout


def _stored(name: str) -> bool:
    return bool(run(["buildah", "images", "--all", "--quiet", "--filter", f"reference={name}"]).strip())


def _bootstrapped(root: Path, suite: str) -> Path:
    run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(root)])
    for leftover in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / leftover, ignore_errors=True)
    return root


def _import(root: Path, name: str) -> None:
    container = run(["buildah", "from", "scratch"]).strip()
    try:
        run(["buildah", "add", "--quiet", container, str(root), "/"])
        run(["buildah", "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container])
        run(["buildah", "commit", "--quiet", container, name])
    finally:
        run(["buildah", "rm", container])


def _authorities() -> list[str]:
    """This machine's own authorities for pip, where the environment names a file with them. Debian's pip reads it."""
    file = next((os.environ[key] for key in CA_FILES if os.environ.get(key)), None)
    return ["-v", f"{file}:/etc/ssl/certs/ca-certificates.crt:ro"] if file else []


def main() -> int:
    try:
        images = build(*sys.argv[1:2])
    except (Unavailable, Broken) as error:
        sys.stderr.write(f"images: {error}\n")
        return 1
    sys.stdout.write(f"{images.allocator}\n{images.shim}\n{images.agent}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
