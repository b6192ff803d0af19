"""Finds the programs of a control plane, or builds them once.

They come from $KUBEBUILDER_ASSETS where that is set, else from `.cache/control-plane/` of the checkout, which is filled
with Go where Go is there. Run alone, this prints the folder:

    python tests/e2e/binaries.py
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = Path(__file__).resolve().parent / "build"
CACHE = CHECKOUT / ".cache" / "control-plane"

NEEDED = ("etcd", "kube-apiserver", "kubectl")
WORKLOADS = ("kube-controller-manager", "kube-scheduler")

ETCD_PACKAGE = "go.etcd.io/etcd/server/v3"
KUBERNETES_MODULE = "k8s.io/kubernetes"


class Unavailable(Exception):  # noqa: N818 - a fact about the machine, not a fault
    """This machine has no control plane and cannot build one. The message says what would help."""


class Broken(Exception):  # noqa: N818 - reads as what it says
    """What should be a control plane is none, or a build failed. The message says why."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where each program is."""

    paths: Mapping[str, Path]

    def __getitem__(self, program: str) -> str:
        return str(self.paths[program])

    @property
    def missing_for_workloads(self) -> tuple[str, ...]:
        """What StatefulSets, Deployments and Jobs would need and is not there."""
        return tuple(program for program in WORKLOADS if program not in self.paths)


def locate(environ: Mapping[str, str] = os.environ) -> Binaries:
    """Finds the programs, building them if need be.

    Raises:
        Unavailable: there are none, and Go is absent.
        Broken: $KUBEBUILDER_ASSETS lacks something, or the build failed.

    """
    if assets := environ.get("KUBEBUILDER_ASSETS"):
        return _in_assets(Path(assets))
    return _in_folder(_cached_or_built())


def _in_assets(folder: Path) -> Binaries:
    found = dict(_in_folder(folder).paths)
    if "kubectl" not in found and (kubectl := shutil.which("kubectl")):
        found["kubectl"] = Path(kubectl)
    if missing := [program for program in NEEDED if program not in found]:
        raise Broken(f"KUBEBUILDER_ASSETS={folder} has no {', '.join(missing)}; unset it to build them here")
    return Binaries(found)


def _in_folder(folder: Path) -> Binaries:
    programs = (*NEEDED, *WORKLOADS)
    return Binaries({program: folder / program for program in programs if os.access(folder / program, os.X_OK)})


def _cached_or_built() -> Path:
    etcd, kubernetes = _required("etcd", ETCD_PACKAGE), _required("kubernetes", KUBERNETES_MODULE)
    folder = CACHE / f"kubernetes-{kubernetes}-etcd-{etcd}"
    if folder.is_dir():
        return folder
    if shutil.which("go") is None:
        raise Unavailable(
            "no control plane: set KUBEBUILDER_ASSETS (setup-envtest prints such a folder), or install Go and run again"
        )
    with alone(CACHE):
        if not folder.is_dir():
            _build(folder, etcd=etcd, kubernetes=kubernetes)
    return folder


def _required(module: str, requirement: str) -> str:
    """The version that a go.mod requires, so that it is written down once."""
    text = (BUILD / module / "go.mod").read_text(encoding="utf-8")
    match = re.search(rf"^(?:require|\t) ?{re.escape(requirement)} (v\S+)", text, re.MULTILINE)
    if match is None:
        raise Broken(f"{BUILD / module / 'go.mod'} does not require {requirement}")
    return match.group(1)


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Holds the cache, so that two runs do not build at once and left-overs are surely nobody's."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob("unfinished-*"):
            shutil.rmtree(leftover)
        yield


def _build(folder: Path, *, etcd: str, kubernetes: str) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=CACHE))
    try:
        go_build("etcd", etcd, [f"-o={unfinished / 'etcd'}", ETCD_PACKAGE])
        packages = [f"{KUBERNETES_MODULE}/cmd/{program}" for program in (*NEEDED[1:], *WORKLOADS)]
        go_build("kubernetes", kubernetes, [f"-o={unfinished}/", *packages], ldflags=_version_flags(kubernetes))
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _version_flags(version: str) -> list[str]:
    """Kubernetes learns its version from the linker; without it the server calls itself v0.0.0-master."""
    major, minor, _patch = version.removeprefix("v").split(".")
    facts = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    return [
        f"-X {package}.{name}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for name, value in facts.items()
    ]


def go_build(module: str, version: str, arguments: Sequence[str], *, ldflags: Sequence[str] = ()) -> None:
    """Builds in the folder of the module's own go.mod, so that versions never mix with anything else's.

    The settings of the caller's own Go work (flags, workspace) stay outside; the module proxy stays theirs.
    """
    environ = os.environ | {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "CGO_ENABLED": "0"}
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s", "-w", *ldflags])]
    _say(f"building {module} {version} (once; minutes on a cold Go cache)")
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            ["go", "build", *flags, *arguments],
            cwd=BUILD / module,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while _still_running(process, seconds=30):
                _say(f"building {module}: {time.monotonic() - started:.0f} s")
        finally:
            _end(process)
        if process.returncode != 0:
            log.seek(0)
            raise Broken(f"go build of {module} {version} failed:\n{''.join(log.readlines()[-20:])}")
    _say(f"built {module} in {time.monotonic() - started:.0f} s")


def _still_running(process: subprocess.Popen[bytes], *, seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends an interrupted build with its compilers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _say(line: str) -> None:
    sys.stderr.write(f"e2e: {line}\n")
    sys.stderr.flush()


def main() -> int:
    try:
        binaries = locate()
    except (Unavailable, Broken) as error:
        _say(str(error))
        return 1
    sys.stdout.write(f"{binaries.paths['kube-apiserver'].parent}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
