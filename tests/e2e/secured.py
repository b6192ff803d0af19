"""The allocator as it is installed: a ServiceAccount with the rights of deploy/base, TLS, both listeners, the Lease."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from e2e.api import Https
from e2e.control_plane import ControlPlane
from e2e.manifests import rendered
from e2e.pki import KeyPair
from e2e.processes import Process, free_ports, wait_until
from e2e.product import start_program
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

SYSTEM = "hostport-system"
ACCOUNT = "hostport-allocator"
AUDIENCE = "hostport.io"


def token_of(plane: ControlPlane, namespace: str, account: str, audience: str = "") -> str:
    """A fresh token of a ServiceAccount; without an audience one for the API server."""
    wanted = [f"--audience={audience}"] if audience else []
    return plane.kubectl.within(namespace)("create", "token", account, *wanted).stdout.strip()


def apply_rights(plane: ControlPlane) -> None:
    """What `make deploy` installs around the programs, and the kind of a lease."""
    kinds = {"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    kinds |= {"CustomResourceDefinition"}
    plane.kubectl.apply(*(each for each in rendered(plane, "default") if each["kind"] in kinds))
    plane.kubectl("wait", "--for=condition=Established", "crd/portleases.hostport.io", "--timeout=30s")


class Secured:
    """A running allocator, and callers of every kind."""

    def __init__(self, plane: ControlPlane, folder: Path, name: str, *flags: str) -> None:
        self._plane = plane
        self._folder = folder
        port, token_port, http_port = free_ports(3)
        self._port, self._token_port = port, token_port
        self.http = Https(f"http://127.0.0.1:{http_port}")
        served = _pair(plane, "secured-allocator", None)
        self.log = plane.logs / f"{name}.log"
        self._command = (
            f"--listen=127.0.0.1:{port}",
            f"--listen-tokens=127.0.0.1:{token_port}",
            f"--http=127.0.0.1:{http_port}",
            "--cluster=kubernetes",
            f"--kubeconfig={self._kubeconfig()}",
            "--journal=memory",
            f"--lease-namespace={SYSTEM}",
            f"--pod-name={name}",
            f"--pod-uid={name}",
            f"--tls-cert={served.cert}",
            f"--tls-key={served.key}",
            f"--tls-client-ca={plane.pki.ca}",
            *flags,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[Process]:
        """Started, and not yet waited for."""
        plane = self._plane
        plane.kubectl.within(SYSTEM)("delete", "lease", "hostport-allocator", "--ignore-not-found")
        process = start_program("allocator", self.log, *self._command)
        try:
            yield process
        finally:
            process.stop()

    def is_ready(self) -> bool:
        return self.http.is_ok("/readyz")

    def wait_until_ready(self, process: Process) -> None:
        process.wait_until("ready", self.is_ready)

    @contextlib.contextmanager
    def certified(self, name: str, group: str | None = None) -> Iterator[Caller]:
        pair = _pair(self._plane, name, group)
        credentials = grpc.ssl_channel_credentials(
            self._plane.pki.ca.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()
        )
        with grpc.secure_channel(f"127.0.0.1:{self._port}", credentials) as channel:
            yield Caller(channel)

    @contextlib.contextmanager
    def bearing(self, token: str) -> Iterator[Caller]:
        credentials = grpc.ssl_channel_credentials(self._plane.pki.ca.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{self._token_port}", credentials) as channel:
            yield Caller(channel, (("authorization", f"Bearer {token}"),))

    def _kubeconfig(self) -> Path:
        """As the Pod's own ServiceAccount sees the API server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "e2e",
                    "cluster": {"server": self._plane.api.base, "certificate-authority": str(self._plane.pki.ca)},
                }
            ],
            "users": [{"name": "pod", "user": {"token": token_of(self._plane, SYSTEM, ACCOUNT)}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "pod"}}],
            "current-context": "e2e",
        }
        path = self._folder / "service-account.kubeconfig"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path


def _pair(plane: ControlPlane, name: str, group: str | None) -> KeyPair:
    """Made once: the files of a name are added to, not replaced."""
    folder = plane.pki.ca.parent
    made = KeyPair(folder / f"{name}.crt", folder / f"{name}.key")
    if made.cert.exists():
        return made
    return plane.pki.server(name) if name == "secured-allocator" else plane.pki.client(name, group=group)


class Caller:
    """Calls and says what came of them."""

    def __init__(self, channel: grpc.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._stub = pb_grpc.AllocatorServiceStub(channel)
        self._metadata = tuple(metadata)

    def __call__(self, method: str, request: Any) -> Any:
        answer = getattr(self._stub, method)(request, metadata=self._metadata, timeout=10, wait_for_ready=True)
        return list(answer) if hasattr(answer, "cancel") else answer  # of a stream: all that it answers

    def outcome(self, method: str, request: Any) -> str:
        """`OK`, or the reason."""
        try:
            self(method, request)
        except grpc.RpcError as error:
            status, info = rpc_status.from_call(cast("grpc.Call", error)), error_details_pb2.ErrorInfo()
            return info.reason if status and status.details[0].Unpack(info) else str(cast("Any", error).code().name)
        return "OK"

    def lease(self, namespace: str = "") -> str:
        """What came of a lease that is asked for."""
        return self.outcome("Allocate", lease(namespace))


def lease(namespace: str = "") -> pb.AllocateRequest:
    owner = pb.Owner(kind="Relay", name="r1", namespace=namespace)
    return pb.AllocateRequest(owner=owner, policy=pb.POLICY_DYNAMIC, ports=[pb.PortRequest()])


def wait_until_allowed(
    plane: ControlPlane,
    user: str,
    verb: str,
    resource: str,
    namespace: str,
    *,
    groups: Sequence[str] = (),
    expected: bool = True,
) -> None:
    """Until the API server has heard of a change of RBAC, which it does by itself, in its time.

    `resource` is `RESOURCE.GROUP`, `RESOURCE/SUBRESOURCE.GROUP` or either with `:NAME`. kubectl would want to know it.
    """
    full, _, name = resource.partition(":")
    path, _, group = full.partition(".")
    plural, _, sub = path.partition("/")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": sub, "name": name}
    attributes["namespace"] = namespace
    spec = {"user": user, "groups": [*groups, "system:authenticated"], "resourceAttributes": attributes}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}

    def is_so() -> bool:
        answer = plane.api.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer.json["status"]["allowed"]) is expected

    wait_until(f"{user} {'to be' if expected else 'not to be'} allowed to {verb} {resource} in {namespace}", is_so)
