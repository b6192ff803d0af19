"""Three real nodes on a plain Linux machine, without Docker.

The suite's own process moves into a network namespace of its own, together with the control plane; each node is a
process with namespaces and control groups of its own (machine.py), plugged into the same bridge. Nothing of it has a way
out, and all of it ends with the suite, however that ends.

Needs root, control groups v1, and some packages of the distribution.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2e import binaries as programs
from e2e.processes import Process, wait_until
from images import building

from e2e_cluster import control
from e2e_cluster.driver import Access, Unavailable
from e2e_cluster.small_images import NAMES as SMALL_IMAGES
from e2e_cluster.small_images import small_images

CLONE_NEWNET = 0x40000000
MACHINE = Path(__file__).with_name("machine.py")
NODES = ("n1", "n2", "n3")
PACKAGES = {
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "busybox": "busybox-static",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "ip": "iproute2",
}
CNI = Path("/usr/lib/cni")
SYNC = "5s"  # how often a kubelet looks at Secrets; by default every minute, and a roll-over would take many


class LinuxCluster:
    """See driver.Driver."""

    name = "Linux namespaces, kubelet and containerd"

    def __init__(self, folder: Path) -> None:
        """Raises Unavailable where this machine cannot."""
        require_machine()
        building.require_tools()
        try:
            self._control, self._programs = programs.locate(), programs.locate_for_nodes()
        except programs.Unavailable as error:
            raise Unavailable(str(error)) from error
        if missing := self._control.missing_for_workloads:
            raise Unavailable(f"{', '.join(missing)} not in KUBEBUILDER_ASSETS; unset it to build them here")
        self._build_flags = building.flags()  # makes a base image, for which a way out is needed
        self._folder = folder
        self._outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._machines: dict[str, Machine] = {}
        self._stack = contextlib.ExitStack()

    def create(self) -> Access:
        images = small_images(self._folder)
        own_network()
        plane = control.start(self._stack, self._control, self._programs, self._folder)
        self._kubeconfig = plane.kubectl.kubeconfig
        addresses = {name: f"198.51.100.{10 + index}" for index, name in enumerate(NODES, 1)}
        for index, (name, address) in enumerate(addresses.items(), 1):
            folder = self._folder / name
            folder.mkdir()
            spec = self._spec(name, index, address, addresses, plane, images)
            self._machines[name] = Machine(folder, spec)
            run("ip", "route", "add", pod_network(index), "via", address)
        ready = ["--for=condition=Ready=true", "--timeout=90s", *(f"node/{name}" for name in NODES)]
        wait_until("the nodes", lambda: all(plane.api.is_ok(f"/api/v1/nodes/{name}") for name in NODES), seconds=90)
        plane.kubectl("wait", *ready)
        return Access(plane.kubectl, addresses)

    def _spec(
        self, name: str, index: int, address: str, addresses: dict[str, str], plane: control.Plane, images: list[Path]
    ) -> dict[str, Any]:
        folder = self._folder / name
        kubeconfig = plane.kubeconfig(f"system:node:{name}", group="system:nodes")
        write_json(folder / "kubelet.json", kubelet_config(plane.pki.ca))
        write_json(folder / "proxy.json", json.loads(plane.proxy_config.read_text()) | {"bindAddress": address})
        write_json(folder / "cni.json", cni_config(pod_network(index)))
        (folder / "containerd.toml").write_text(CONTAINERD.format(runc=shutil.which("runc"), cni=CNI), encoding="utf-8")
        others = [[pod_network(i), "via", each] for i, each in enumerate(addresses.values(), 1) if each != address]
        return {
            "name": name,
            "address": address,
            "folder": str(folder),
            "kubeconfig": str(kubeconfig),
            "routes": [*others, [control.SERVICES, "dev", "eth0"]],
            "images": [str(image) for image in images],
            "cgroups": [str(each) for each in control_groups(f"hostport-{os.getpid()}-{name}")],
            "programs": {program: str(path) for program, path in self._programs.paths.items()},
        }

    def make(self, *verbs: str) -> Sequence[str]:
        """Builds where the internet is reached, and talks to the cluster where that is."""
        kubectl = f"nsenter --net=/proc/{os.getpid()}/ns/net {self._control['kubectl']} --kubeconfig={self._kubeconfig}"
        return [
            *("nsenter", f"--net=/proc/{os.getpid()}/fd/{self._outside}"),
            *("env", *(f"{key}={value}" for key, value in building.STORE.items())),
            *("make", *verbs, f"KUBECTL={kubectl}", "BUILDER=buildah", f"BUILD_FLAGS={self._build_flags}"),
        ]

    def load(self, *images: str) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            for number, image in enumerate(images):
                archive = Path(folder) / f"{number}.tar"
                building.run(["buildah", "push", "-q", image, f"docker-archive:{archive}:{image}"])
                for machine in self._machines.values():
                    machine.run(self._programs["ctr"], "-n", "k8s.io", "images", "import", "--local", str(archive))

    def kill_container(self, node: str, container_id: str) -> None:
        run("kill", "-KILL", str(first_process(container_id)))

    def power_off(self, node: str) -> None:
        run("ip", "link", "set", f"v-{node}", "down")  # first, so that not even a reset is sent
        self._machines[node].kill()

    def reboot(self, node: str) -> None:
        self.power_off(node)
        subprocess.run(["ip", "link", "delete", f"v-{node}"], capture_output=True, check=False)  # it may be gone by now
        self._machines[node] = self._machines[node].anew()

    def delete(self) -> None:
        for machine in self._machines.values():
            machine.kill()
        self._stack.close()


class Machine:
    """A running node."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self._folder, self._spec = folder, spec
        self._groups = [Path(each) for each in spec["cgroups"]]
        file = folder / "spec.json"
        write_json(file, spec)
        command = [sys.executable, "-I", "-S", str(MACHINE), "enter", str(file)]
        self._process = Process(spec["name"], command, log=folder / "machine.log")
        self._process.wait_until("born", lambda: bool(self._children()))
        cable = ["ip", "link", "add", f"v-{spec['name']}", "type", "veth", "peer", "name", "eth0"]
        wait_until("its network", self._has_own_network)
        run(*cable, "netns", str(self.pid))
        run("ip", "link", "set", f"v-{spec['name']}", "master", "br0", "up")

    def _children(self) -> list[int]:
        return children(self._process.pid)

    def _has_own_network(self) -> bool:
        own, ours = (Path(f"/proc/{pid}/ns/net").readlink() for pid in (self.pid, "self"))
        return own != ours

    @property
    def pid(self) -> int:
        """Of the first process, as the host sees it."""
        return self._children()[0]

    def run(self, *command: str) -> None:
        run("nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", *command)

    def anew(self) -> Machine:
        """Once it was killed: the same machine, running again."""
        return Machine(self._folder, self._spec)

    def kill(self) -> None:
        if self._process.exit_code is None:
            self._process.kill()
        for group in self._groups:
            remove_group(group)


def require_machine() -> None:
    """Raises Unavailable where a node cannot be made."""
    if sys.platform != "linux":
        raise Unavailable("the nodes need Linux")
    if os.geteuid() != 0:
        raise Unavailable("only root can make the nodes' namespaces")
    if not Path("/sys/fs/cgroup/memory").is_dir():
        raise Unavailable("control groups v1 are not mounted: this driver knows no other; make e2e-kind does")
    if missing := sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None}):
        raise Unavailable(f"not installed: {' '.join(missing)}")
    if not (CNI / "bridge").exists():
        raise Unavailable("not installed: containernetworking-plugins")
    trial = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    if trial.returncode != 0:
        raise Unavailable(f"no namespaces here: {trial.stderr.strip()}")


def own_network() -> None:
    """Moves this thread, and whatever it starts from now on, into a network of its own, with a bridge for the nodes."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise Unavailable(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "address", "add", f"{control.ADDRESS}/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    # Without a route, connect() fails before kube-proxy's rules see the packet.
    run("ip", "route", "add", control.SERVICES, "dev", "br0")
    for setting, value in (("ipv4/ip_forward", "1"), ("bridge/bridge-nf-call-iptables", "0")):
        file = Path("/proc/sys/net") / setting
        if file.exists():
            file.write_text(value)


def pod_network(index: int) -> str:
    return f"198.19.{index}.0/24"


def control_groups(name: str) -> list[Path]:
    """One in each hierarchy, below ours."""
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers:
            folder = "systemd" if controllers == "name=systemd" else controllers
            found.append(Path("/sys/fs/cgroup") / folder / path.strip("/") / name)
    return [group for group in found if group.parent.is_dir()]


def remove_group(group: Path) -> None:
    """What ran in it was killed; the kernel needs a moment to see it empty."""
    deadline = time.monotonic() + 10
    while group.is_dir() and time.monotonic() < deadline:
        for each in sorted(group.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                each.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def first_process(container_id: str) -> int:
    """Of a container, as the host sees it: in its control group, and number 1 in its own eyes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if container_id in (folder / "cgroup").read_text(encoding="ascii") and is_first(folder):
                return int(folder.name)
    raise LookupError(f"container {container_id} has no process")


def is_first(folder: Path) -> bool:
    status = (folder / "status").read_text(encoding="utf-8")
    return next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1"


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def kubelet_config(ca: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [control.ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "resolvConf": "/etc/resolv.conf",
        "syncFrequency": SYNC,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        # The disk is the machine's, and may be full of other things.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def cni_config(network: str) -> dict[str, object]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": network}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


CONTAINERD = """\
version = 3
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "%s"

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true  # what a container without that right can do

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{cni}"]
  conf_dir = "/etc/cni/net.d"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
""" % SMALL_IMAGES["pause"]  # noqa: UP031 - braces belong to format()
