"""Generates what is made of proto/; with --check only tells whether the generated files are fresh.

hostport/v1 has messages and a service, allocator/ messages alone. With --release the contract of today is kept
as that of the version in pyproject.toml: proto/lint.py refuses what would break programs of a release.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parent.parent
GOOGLE = Path(status_pb2.__file__).parents[2]  # where google/rpc/status.proto lies
PROTOS = ("hostport/v1/allocator.proto", "allocator/cluster/kubernetes.proto", "allocator/stream.proto")
GENERATED = (
    *(f"hostport/v1/allocator_{kind}" for kind in ("pb2.py", "pb2.pyi", "pb2_grpc.py", "pb2_grpc.pyi")),
    *(f"allocator/{name}_{kind}" for name in ("cluster/kubernetes", "stream") for kind in ("pb2.py", "pb2.pyi")),
)


def generate(target: Path) -> None:
    """Runs protoc with the plug-ins of this environment; output goes below `target`."""
    tools = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{GOOGLE}"),
        *(f"--plugin={plugin}={tools / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *(f"--python_out={target}", f"--grpc_python_out={target}"),
        *(f"--mypy_out=quiet:{target}", f"--mypy_grpc_out=quiet:{target}"),
        *PROTOS,
    ]
    subprocess.run(command, check=True)


def keep_release() -> Path:
    """Writes the descriptor set of the contract, without what it imports. Gives the file."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    path = ROOT / "proto" / "released" / f"hostport-v1-{version}.binpb"
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{GOOGLE}", f"-o{path}", PROTOS[0]]
    subprocess.run(command, check=True)
    return path


def main() -> int:
    if "--release" in sys.argv:
        print(keep_release().relative_to(ROOT))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        if "--check" in sys.argv:
            _, stale, missing = filecmp.cmpfiles(scratch, ROOT, GENERATED, shallow=False)
            for name in stale + missing:
                print(f"{name} is stale: run make proto", file=sys.stderr)
            return 1 if stale or missing else 0
        for name in GENERATED:
            shutil.copy(Path(scratch, name), ROOT / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
