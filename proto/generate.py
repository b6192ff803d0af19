"""Generates what is made of proto/; with --check only tells whether the generated files are fresh.

hostport/v1 has messages and a service, allocator/cluster messages alone.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parent.parent
GOOGLE = Path(status_pb2.__file__).parents[2]  # where google/rpc/status.proto lies
PROTOS = ("hostport/v1/allocator.proto", "allocator/cluster/kubernetes.proto")
GENERATED = (
    *(f"hostport/v1/allocator_{kind}" for kind in ("pb2.py", "pb2.pyi", "pb2_grpc.py", "pb2_grpc.pyi")),
    *(f"allocator/cluster/kubernetes_{kind}" for kind in ("pb2.py", "pb2.pyi")),
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


def main() -> int:
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
