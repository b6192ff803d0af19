"""Finds the programs of a control plane and of nodes, or builds them once.

Those of a control plane come from $KUBEBUILDER_ASSETS where that is set, those of nodes from $HOSTPORT_NODE_ASSETS, else
from `.cache/` of the checkout, which is filled with Go where Go is there. Run alone, this prints the folder of the
control plane:

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
NODE_CACHE = CHECKOUT / ".cache" / "nodes"

NEEDED = ("etcd", "kube-apiserver", "kubectl")
WORKLOADS = ("kube-controller-manager", "kube-scheduler")
KUBERNETES_OF_A_NODE = ("kubelet", "kube-proxy")
CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr")

ETCD_PACKAGE = "go.etcd.io/etcd/server/v3"
KUBERNETES_MODULE = "k8s.io/kubernetes"
CONTAINERD_MODULE = "github.com/containerd/containerd/v2"


class Unavailable(Exception):  # noqa: N818 - a fact about the machine, not a fault
    """This machine has no control plane and cannot build one. The message says what would help."""


class Broken(Exception):  # noqa: N818 - reads as what it says
    """What should be a control plane is none, or a build failed. The message says why."""


@dataclass(frozen=True, slots=True)
class Build:
    """One `go build`, in the folder of the module. Without `output` the programs keep the names of their packages."""

    module: str
    version: str
    packages: tuple[str, ...]
    output: str = ""
    ldflags: tuple[str, ...] = ()
    tags: str = ""


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


def locate_for_nodes(environ: Mapping[str, str] = os.environ) -> Binaries:
    """Finds what a node runs, building it if need be. Raises as `locate` does."""
    programs = (*KUBERNETES_OF_A_NODE, *CONTAINERD)
    assets = environ.get("HOSTPORT_NODE_ASSETS")
    folder = Path(assets) if assets else _cached_or_built_for_nodes()
    found = _in_folder(folder, programs)
    if missing := [program for program in programs if program not in found.paths]:
        raise Broken(f"{folder} has no {', '.join(missing)}; unset HOSTPORT_NODE_ASSETS to build them here")
    return found


def _in_assets(folder: Path) -> Binaries:
    found = dict(_in_folder(folder).paths)
    if "kubectl" not in found and (kubectl := shutil.which("kubectl")):
        found["kubectl"] = Path(kubectl)
    if missing := [program for program in NEEDED if program not in found]:
        raise Broken(f"KUBEBUILDER_ASSETS={folder} has no {', '.join(missing)}; unset it to build them here")
    return Binaries(found)


def _in_folder(folder: Path, programs: Sequence[str] = (*NEEDED, *WORKLOADS)) -> Binaries:
    return Binaries({program: folder / program for program in programs if os.access(folder / program, os.X_OK)})


def _cached_or_built() -> Path:
    etcd, kubernetes = _required("etcd", ETCD_PACKAGE), _required("kubernetes", KUBERNETES_MODULE)
    return _once(
        CACHE / f"kubernetes-{kubernetes}-etcd-{etcd}",
        Build("etcd", etcd, (ETCD_PACKAGE,), output="etcd"),
        _kubernetes(kubernetes, (*NEEDED[1:], *WORKLOADS)),
        otherwise="no control plane: set KUBEBUILDER_ASSETS (setup-envtest prints such a folder)",
    )


def _cached_or_built_for_nodes() -> Path:
    kubernetes, containerd = _required("kubernetes", KUBERNETES_MODULE), _required("containerd", CONTAINERD_MODULE)
    return _once(
        NODE_CACHE / f"kubernetes-{kubernetes}-containerd-{containerd}",
        _kubernetes(kubernetes, KUBERNETES_OF_A_NODE),
        Build(
            "containerd",
            containerd,
            tuple(f"{CONTAINERD_MODULE}/cmd/{program}" for program in CONTAINERD),
            ldflags=(f"-X {CONTAINERD_MODULE}/version.Version={containerd}",),
            tags="no_btrfs no_devmapper no_zfs",  # snapshotters that need headers of C libraries
        ),
        otherwise="no programs for a node: set HOSTPORT_NODE_ASSETS",
    )


def _kubernetes(version: str, programs: Sequence[str]) -> Build:
    packages = tuple(f"{KUBERNETES_MODULE}/cmd/{program}" for program in programs)
    return Build("kubernetes", version, packages, ldflags=tuple(_version_flags(version)))


def _once(folder: Path, *builds: Build, otherwise: str) -> Path:
    """The folder; where it is not there yet, what is to be in it is built first."""
    if folder.is_dir():
        return folder
    if shutil.which("go") is None:
        raise Unavailable(f"{otherwise}, or install Go and run again")
    with alone(folder.parent):
        if not folder.is_dir():
            _build(folder, builds)
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


def _build(folder: Path, builds: Sequence[Build]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
    try:
        for build in builds:
            go_build(build, unfinished)
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


def go_build(build: Build, folder: Path) -> None:
    """Builds in the folder of the module's own go.mod, so that versions never mix with anything else's.

    The settings of the caller's own Go work (flags, workspace) stay outside; the module proxy stays theirs.
    """
    module, version = build.module, build.version
    environ = os.environ | {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "CGO_ENABLED": "0"}
    flags = ["-trimpath", "-buildvcs=false", "-tags", build.tags, "-ldflags", " ".join(["-s", "-w", *build.ldflags])]
    _say(f"building {module} {version} (once; minutes on a cold Go cache)")
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            ["go", "build", *flags, f"-o={folder}/{build.output}", *build.packages],
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
