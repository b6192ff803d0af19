"""Generates hostport/v1 from proto/; with --check only tells whether the generated files are fresh."""

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
GENERATED = ("allocator_pb2.py", "allocator_pb2.pyi", "allocator_pb2_grpc.py", "allocator_pb2_grpc.pyi")


def generate(target: Path) -> None:
    """Runs protoc with the plug-ins of this environment; output goes below `target`."""
    tools = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{GOOGLE}"),
        *(f"--plugin={plugin}={tools / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *(f"--python_out={target}", f"--grpc_python_out={target}"),
        *(f"--mypy_out=quiet:{target}", f"--mypy_grpc_out=quiet:{target}"),
        "hostport/v1/allocator.proto",
    ]
    subprocess.run(command, check=True)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh, kept = Path(scratch, "hostport", "v1"), ROOT / "hostport" / "v1"
        if "--check" in sys.argv:
            _, stale, missing = filecmp.cmpfiles(fresh, kept, GENERATED, shallow=False)
            for name in stale + missing:
                print(f"hostport/v1/{name} is stale: run make proto", file=sys.stderr)
            return 1 if stale or missing else 0
        for name in GENERATED:
            shutil.copy(fresh / name, kept / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
