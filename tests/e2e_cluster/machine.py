"""One node of the cluster on a plain Linux machine: a script with two lives.

    machine.py enter SPEC    makes control groups of its own and becomes `unshare`, which starts
    machine.py boot SPEC     the first process in namespaces of its own: containerd, kubelet, kube-proxy

Ended by SIGKILL to the first process, which takes all of the node with it. Standard library only. SPEC is a JSON file,
written by linux.py.

The kernel is shared: what the kubelet would set for the whole machine it is shown as set already.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
HIERARCHIES = {**{each: each for each in CONTROLLERS}, "systemd": "name=systemd"}
CGROUPS = Path("/sys/fs/cgroup")
PRIVATE = (
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
    "/etc/cni/net.d",
)
WANTED_BY_THE_KUBELET = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
SOCKET = Path("/run/containerd/containerd.sock")


def run(*command: str | Path) -> None:
    subprocess.run([str(each) for each in command], check=True)


def enter(spec_file: str, spec: dict[str, Any]) -> None:
    for group in (Path(each) for each in spec["cgroups"]):
        group.mkdir(parents=True, exist_ok=True)
        for inherited in ("cpuset.cpus", "cpuset.mems"):
            if (group / inherited).exists():
                (group / inherited).write_text((group.parent / inherited).read_text())
        (group / "cgroup.procs").write_text(str(os.getpid()))
    namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc")
    os.execvp("unshare", ["unshare", *namespaces, sys.executable, "-I", "-S", __file__, "boot", spec_file])


def boot(spec: dict[str, Any]) -> None:
    folder = Path(spec["folder"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    mounts(folder)
    identity(folder, spec["name"], spec["address"])
    network(spec)
    programs = spec["programs"]
    os.environ["PATH"] = f"{Path(programs['containerd']).parent}:{os.environ['PATH']}"
    start(folder, "containerd", programs["containerd"], f"--config={folder / 'containerd.toml'}")
    wait_until(lambda: SOCKET.exists() and answers(programs["ctr"], "version"))
    for image in spec["images"]:
        run(programs["ctr"], "--namespace=k8s.io", "images", "import", "--local", image)
    start(
        folder,
        "kubelet",
        programs["kubelet"],
        f"--config={folder / 'kubelet.json'}",
        f"--kubeconfig={spec['kubeconfig']}",
        f"--hostname-override={spec['name']}",
        f"--node-ip={spec['address']}",
    )
    start(folder, "kube-proxy", programs["kube-proxy"], f"--config={folder / 'proxy.json'}")
    reap_for_ever()


def mounts(folder: Path) -> None:
    run("mount", "--make-rshared", "/")
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    # Mounted afresh, so that their root is this node's control group.
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", CGROUPS)
    for name, options in HIERARCHIES.items():
        (CGROUPS / name).mkdir()
        run("mount", "-t", "cgroup", "-o", f"none,{options}" if "=" in options else options, "cgroup", CGROUPS / name)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    for place in PRIVATE:
        own = folder / "fs" / place.lstrip("/")
        own.mkdir(parents=True, exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", own, place)
    (Path("/etc/cni/net.d") / "10-bridge.conflist").write_text((folder / "cni.json").read_text())
    for setting, value in WANTED_BY_THE_KUBELET.items():
        cover(folder, f"/proc/sys/{setting}", f"{value}\n")


def cover(folder: Path, place: str, text: str) -> None:
    """Shows a file of ours in another's place."""
    own = folder / "fs" / place.lstrip("/")
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(text)
    run("mount", "--bind", own, place)


def identity(folder: Path, name: str, address: str) -> None:
    socket.sethostname(name)
    cover(folder, "/etc/hostname", f"{name}\n")
    cover(folder, "/etc/hosts", f"127.0.0.1 localhost\n{address} {name}\n")
    cover(folder, "/etc/resolv.conf", "options ndots:1\n")


def network(spec: dict[str, Any]) -> None:
    """Takes up the cable that linux.py plugs in. There is no default route: nothing here has a way out."""
    run("ip", "link", "set", "lo", "up")
    wait_until(lambda: Path("/sys/class/net/eth0").exists())
    run("ip", "address", "add", f"{spec['address']}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    for route in spec["routes"]:
        run("ip", "route", "add", *route)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def start(folder: Path, name: str, *command: str) -> None:
    with (folder / f"{name}.log").open("ab") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait_until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.1)


def reap_for_ever() -> None:
    """Orphans of containers become children of the first process. Should containerd end, so does the node's work."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


def main(life: str, spec_file: str) -> None:
    spec = json.loads(Path(spec_file).read_text())
    if life == "enter":
        enter(spec_file, spec)
    boot(spec)


if __name__ == "__main__":
    main(*sys.argv[1:])
