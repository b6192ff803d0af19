"""Two allocators on one cluster, each with its own journal: at no time do two of them answer."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from e2e.api import Https, Kubectl
from e2e.control_plane import ControlPlane
from e2e.cut import wire
from e2e.manifests import pod as bare_pod
from e2e.processes import free_ports, wait_until
from e2e.product import start_program
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as rpc

pytestmark = pytest.mark.workloads

VALID = 10.0  # seconds after its last renewal in which a holder may answer
UNSEEN = 36.0  # seconds after its last sign of life in which what it admitted may still appear
HANDED_OVER = 1.0  # seconds without an answer when the one that serves stops in order and another stands by
TAKEN_OVER = 40.0  # the same when it is cut off, frozen or gone
PACE = 0.03

NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

ASK = pb.AllocateRequest(
    dry_run=True,
    owner=pb.Owner(kind="Pod", namespace="demo", name="asker-0"),
    policy=pb.POLICY_STATIC,
    ports=[pb.PortRequest(container="main", container_port=80, host_port=24000)],
)


class Contender:
    """An allocator that serves by the Lease of a namespace, and a client that asks it without end."""

    def __init__(self, plane: ControlPlane, kubectl: Kubectl, folder: Path, name: str, kubeconfig: Path) -> None:
        kubectl.apply(bare_pod(name, {}))
        self.name, self._log, self._kubectl = name, plane.logs / f"contender-{kubectl.namespace}-{name}.log", kubectl
        self.answered: list[float] = []
        port, http = free_ports(2)
        self._http = Https(f"http://127.0.0.1:{http}")
        self._flags = (
            f"--listen=127.0.0.1:{port}",
            f"--http=127.0.0.1:{http}",
            "--cluster=kubernetes",
            f"--kubeconfig={kubeconfig}",
            f"--journal=sqlite:{folder / f'{kubectl.namespace}-{name}.db'}",
            f"--lease-namespace={kubectl.namespace}",
            f"--pod-name={name}",
            f"--pod-uid={kubectl.get('pod', name)['metadata']['uid']}",
        )
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_reconnect_backoff_ms", 200)])
        self._allocate: Any = rpc.AllocatorServiceStub(self._channel).Allocate
        self._done = threading.Event()
        self._asking = threading.Thread(target=self._ask, daemon=True)
        self.start()
        self._asking.start()

    def start(self) -> None:
        self._process = start_program("allocator", self._log, *self._flags)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> int:
        return self._process.stop()

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def is_ready(self) -> bool:
        return self._http.is_ok("/readyz")

    def close(self) -> None:
        self._done.set()
        self._asking.join()
        self._channel.close()
        if self._process.exit_code is None:
            self._process.kill()

    def forget_pod(self) -> None:
        self._kubectl("delete", "pod", self.name, "--force", "--grace-period=0")

    def serves(self, *, since: float) -> bool:
        return any(at > since for at in reversed(self.answered[-50:]))

    def _ask(self) -> None:
        """Every answer counts, a denial as well: only UNAVAILABLE, and calls that came to no end, are none."""
        while not self._done.wait(PACE):
            try:
                self._allocate(ASK, timeout=1)
            except grpc.RpcError as error:
                if error.code() in NO_ANSWER:
                    continue
            self.answered.append(time.monotonic())


Contend = Callable[..., Contender]


@pytest.fixture
def contend(plane: ControlPlane, kubectl: Kubectl, folder: Path) -> Iterator[Contend]:
    """Starts a contender of the case."""
    with contextlib.ExitStack() as stack:

        def start(name: str, kubeconfig: Path = plane.kubectl.kubeconfig) -> Contender:
            made = Contender(plane, kubectl, folder, name, kubeconfig)
            stack.callback(made.close)
            return made

        yield start


def wait_to_serve(contender: Contender, seconds: float) -> float:
    """Waits for its next answer; returns after how long it came."""
    begin = time.monotonic()
    wait_until(f"{contender.name} to answer", lambda: contender.serves(since=begin), seconds=seconds)
    return next(at for at in contender.answered if at > begin) - begin


def assert_one_after_the_other(first: Contender, second: Contender) -> None:
    assert max(first.answered) < min(second.answered)


def test_the_second_waits_and_serves_as_soon_as_the_first_has_stopped_in_order(contend: Contend) -> None:
    first = contend("first")
    wait_to_serve(first, 20)
    second = contend("second")
    wait_until("the second to stand by", second.is_ready, seconds=20)
    time.sleep(4)
    assert second.answered == []

    assert first.stop() == 0

    wait_until("the second to answer", lambda: second.answered != [], seconds=20)
    assert second.answered[0] - first.answered[-1] < HANDED_OVER
    assert_one_after_the_other(first, second)


def test_who_is_frozen_and_wakes_up_when_the_next_one_serves_answers_nothing_any_more(contend: Contend) -> None:
    first = contend("first")
    wait_to_serve(first, 20)
    second = contend("second")
    wait_until("the second to stand by", second.is_ready, seconds=20)
    first.freeze()
    begin = time.monotonic()
    wait_until("the second to serve", lambda: second.answered != [], seconds=UNSEEN + 15)
    first.thaw()
    time.sleep(3)

    assert second.answered[0] - begin < TAKEN_OVER
    assert_one_after_the_other(first, second)


def test_a_container_that_is_restarted_serves_at_once(contend: Contend) -> None:
    only = contend("only")
    wait_to_serve(only, 20)

    only.kill()
    only.start()

    assert wait_to_serve(only, 20) < VALID


def test_who_is_cut_off_from_the_api_server_falls_silent_before_the_next_one_serves(
    plane: ControlPlane, contend: Contend
) -> None:
    with wire(int(plane.api.base.rpartition(":")[2])) as way:
        around = plane.pki.kubeconfig(f"https://127.0.0.1:{way.port}", plane.pki.client("cut", group="system:masters"))
        first = contend("first", around)
        wait_to_serve(first, 20)
        second = contend("second")
        time.sleep(4)

        way.cut()
        begin = time.monotonic()
        wait_until("the second to serve", lambda: second.answered != [], seconds=UNSEEN + 15)

    assert begin < max(first.answered) < begin + VALID + 1
    assert_one_after_the_other(first, second)
    assert UNSEEN - VALID < second.answered[0] - begin < TAKEN_OVER


def test_a_holder_whose_pod_was_deleted_by_force_falls_silent_before_the_next_one_serves(contend: Contend) -> None:
    first = contend("first")
    wait_to_serve(first, 20)
    second = contend("second")
    time.sleep(4)

    first.forget_pod()
    begin = time.monotonic()
    wait_until("the second to serve", lambda: second.answered != [], seconds=UNSEEN + 15)

    assert max(first.answered) < begin + VALID  # not after 15 s: the Pod is known to be gone
    assert_one_after_the_other(first, second)
