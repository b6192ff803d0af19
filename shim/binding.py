"""POST /binding: a Pod gets its node, and with the very same write is told where clients dial that node.

The API server copies the annotations of a Binding into the Pod as it sets the node, so that no kubelet sees the Pod
without them.

Rules:

* Nothing that goes wrong here keeps a Pod from its node: without an address the Binding passes.
* What stands in the Binding under our names is replaced by what the allocator says, and removed where that has less, or
  says nothing: whoever reads the Pod is to find our word or none.
* Only a Binding to a node is looked at. Nothing is kept, so that a dry run is answered like any other call.
* What is passed over becomes no object: a body of 3 MiB holds a million of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec

from hostport.contract.annotations import Annotation
from hostport.v1.allocator_pb2 import GetNodeAddressResponse
from shim.admission import allowed
from shim.outcomes import About, AddOp, Op, RemoveOp
from shim.ports import pointer_to
from shim.review import ReviewError

AddressOf = Callable[[str], Awaitable[GetNodeAddressResponse | None]]
"""How to ask for the address of a node; None where it is not known. Never raises."""


class AddressBy(Protocol):
    """How to ask for the address of a node with a deadline, a time of the event loop's clock."""

    def __call__(self, node: str, *, deadline: float) -> Awaitable[GetNodeAddressResponse | None]:
        """As for `AddressOf`."""


async def nobody_knows(node: str, *, deadline: float) -> None:
    """An `AddressBy` where there is nobody to ask."""
    del node, deadline


_AsItStands = msgspec.Raw | msgspec.UnsetType


class _Target(msgspec.Struct):
    kind: str = ""
    name: str = ""


class _Annotations(msgspec.Struct):
    """Ours, as they stand."""

    address: _AsItStands = msgspec.field(default=msgspec.UNSET, name=Annotation.EXTERNAL_IP.text)
    ipv4: _AsItStands = msgspec.field(default=msgspec.UNSET, name=Annotation.EXTERNAL_IP_V4.text)
    ipv6: _AsItStands = msgspec.field(default=msgspec.UNSET, name=Annotation.EXTERNAL_IP_V6.text)


class _Metadata(msgspec.Struct):
    annotations: _Annotations | None = None


class _Binding(msgspec.Struct):
    kind: str = ""
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    target: _Target = msgspec.field(default_factory=_Target)


class _Request(msgspec.Struct, rename="camel"):
    uid: str
    namespace: str = ""
    name: str = ""
    dry_run: bool = False
    object: _Binding | None = None


class _Review(msgspec.Struct):
    request: _Request


class BindingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back, and what the log says of it."""

    body: bytes  # the AdmissionReview, as it is sent
    about: About
    node: str
    address: str = ""  # empty: the Binding passes without one


_decode = msgspec.json.Decoder(_Review).decode
_encode = msgspec.json.Encoder().encode


async def answer_binding(body: bytes, address_of: AddressOf) -> BindingAnswer:
    """The answer to the review of a Binding: it is always allowed.

    Raises:
        ReviewError: the body is no such review.

    """
    try:
        request = _decode(body).request
    except msgspec.DecodeError as error:
        raise ReviewError(f"the review of a binding is malformed: {error}") from error
    binding = request.object
    about = About(request_id=request.uid, namespace=request.namespace, name=request.name, is_dry_run=request.dry_run)
    if binding is None or binding.kind != "Binding" or binding.target.kind not in {"", "Node"}:
        return BindingAnswer(body=allowed(request.uid), about=about, node="")
    node = binding.target.name
    found = await address_of(node) if node else None
    found = found or GetNodeAddressResponse()
    ops = list(_ops(binding.metadata.annotations, found))
    return BindingAnswer(body=allowed(request.uid, ops=ops), about=about, node=node, address=found.address)


def _ops(annotations: _Annotations | None, found: GetNodeAddressResponse) -> Iterator[Op]:
    """What makes the annotations of a Binding say an address."""
    stands = annotations or _Annotations()
    told = {
        Annotation.EXTERNAL_IP.text: (stands.address, found.address),
        Annotation.EXTERNAL_IP_V4.text: (stands.ipv4, found.ipv4),
        Annotation.EXTERNAL_IP_V6.text: (stands.ipv6, found.ipv6),
    }
    if annotations is None and not found.address:
        return
    if annotations is None:
        yield AddOp("/metadata/annotations", {name: text for name, (_, text) in told.items() if text})
        return
    for name, (there, text) in told.items():
        if text and not (isinstance(there, msgspec.Raw) and bytes(there) == _encode(text)):
            yield AddOp(pointer_to(name), text)
        elif not text and there is not msgspec.UNSET:
            yield RemoveOp(pointer_to(name))
