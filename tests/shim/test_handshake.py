"""TLS fails between shim and allocator: each cause is told in words, and nothing else is told as one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from standin import StandIn, serving
from tornado.httpclient import AsyncHTTPClient

from allocator.certificates.issuing import CLIENT, SERVER, CertificateSubject, Pair, issue, new_authority, pem
from allocator.certificates.serving import BuiltInCertificate
from hostport.credentials import Credentials
from hostport.flags import Address
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse
from shim.client import AllocatorClient
from shim.outcomes import Unreachable
from shim.runtime import Shim, ShimOptions
from shim.tls import tls_trouble

NOW = time.time()
HOUR = 3600.0
OURS, OTHER = (new_authority(now=NOW - HOUR, seconds=2 * HOUR) for _ in range(2))
SHIM = CertificateSubject(name="hostport-shim", alternatives=("shim",), usages=(SERVER, CLIENT))


@dataclass(frozen=True)
class Case:
    """Who signed what, whom each trusts, for which address, and what is said of it."""

    said: str
    signed_allocator: Pair = OURS
    signed_shim: Pair = OURS
    allocator_trusts: Pair = OURS
    shim_trusts: Pair = OURS
    address: str = "127.0.0.1"
    seconds: float = HOUR


CASES = {
    "both trust": Case(""),
    "the allocator's is a stranger's": Case(
        "this shim does not trust the allocator's certificate: unable to get local issuer certificate",
        signed_allocator=OTHER,
    ),
    "the allocator's has ended": Case(
        "this shim does not trust the allocator's certificate: certificate has expired", seconds=-60
    ),
    "the allocator's is for another address": Case(
        "this shim does not trust the allocator's certificate: "
        "IP address mismatch, certificate is not valid for '127.0.0.1'",
        address="10.0.0.1",
    ),
    "the shim's is a stranger's": Case("the allocator does not accept this shim's certificate", signed_shim=OTHER),
}


def credentials(case: Case, folder: Path) -> Credentials:
    pair = issue(case.signed_shim, SHIM, now=NOW, seconds=HOUR)
    ca, cert, key = (folder / name for name in ("ca.crt", "tls.crt", "tls.key"))
    ca.write_text(pem([case.shim_trusts.certificate]))
    cert.write_text(pem([pair.certificate]))
    key.write_text(pair.key)
    return Credentials(ca=ca, cert=cert, key=key)


@asynccontextmanager
async def allocator(case: Case) -> AsyncIterator[Address]:
    begun = NOW + min(0, case.seconds) * 2
    server = BuiltInCertificate(now=NOW)
    identity = CertificateSubject(name="hostport-allocator", alternatives=(case.address,))
    pair = issue(case.signed_allocator, identity, now=begun, seconds=abs(case.seconds))
    server.serve(pair, pem([case.allocator_trusts.certificate]))
    async with serving(StandIn(), credentials=server.credentials(asks_clients=True)) as address:
        yield address


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_cause_is_told_in_words(case: Case, tmp_path: Path) -> None:
    async with allocator(case) as address:
        assert await tls_trouble(address, credentials(case, tmp_path)) == case.said


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_an_admission_that_fails_for_it_says_so(case: Case, tmp_path: Path) -> None:
    async with allocator(case) as address:
        client = AllocatorClient(address, credentials(case, tmp_path))
        outcome = await client.allocate(AllocateRequest(), deadline=asyncio.get_running_loop().time() + 2)
        await client.close()

    if not case.said:
        assert isinstance(outcome, AllocateResponse)
        return
    assert outcome == Unreachable("TLS_FAILED", f"no TLS with the allocator {address}: {case.said}")


async def refusals(shim: Shim) -> str:
    answer = await AsyncHTTPClient(force_instance=True).fetch(f"http://{shim.side_address}/metrics")
    [value] = re.findall(r"^hostport_shim_certificate_refused_total (\S+)$", answer.body.decode(), re.MULTILINE)
    return str(value)


def shake_hands(context: ssl.SSLContext, address: Address) -> None:
    """With a plain socket: asyncio keeps the alert of a failure to itself."""
    with (
        contextlib.suppress(ssl.SSLCertVerificationError),
        socket.create_connection((address.host, address.port), timeout=5) as connection,
        context.wrap_socket(connection),
    ):
        pass


@pytest.mark.parametrize(
    ("trusted", "minimum", "counted"),
    [
        (OURS, ssl.TLSVersion.TLSv1_3, "0.0"),
        (OTHER, ssl.TLSVersion.TLSv1_3, "1.0"),
        (OTHER, ssl.TLSVersion.TLSv1_2, "1.0"),
    ],
    ids=["trusted", "a stranger", "a stranger, TLS 1.2"],
)
async def test_an_api_server_that_does_not_trust_the_shim_is_counted(
    trusted: Pair, minimum: ssl.TLSVersion, counted: str, tmp_path: Path
) -> None:
    files = credentials(CASES["both trust"], tmp_path)
    anywhere = Address("127.0.0.1", 0)
    shim = Shim(
        ShimOptions(
            listen=anywhere,
            http=anywhere,
            allocator=anywhere,
            tls_cert=files.cert,
            tls_key=files.key,
            tls_min_version=minimum,
        )
    )
    context = ssl.create_default_context(cadata=pem([trusted.certificate]))
    context.check_hostname, context.maximum_version = False, minimum
    await asyncio.to_thread(shake_hands, context, shim.address)
    async with asyncio.timeout(30):
        while await refusals(shim) != counted:
            await asyncio.sleep(0.01)
    await shim.stop()


async def test_what_is_no_failure_of_tls_is_not_told_as_one(tmp_path: Path) -> None:
    """Nobody listens."""
    case = CASES["both trust"]
    async with allocator(case) as address:
        pass

    assert await tls_trouble(address, credentials(case, tmp_path)) == ""
    client = AllocatorClient(address, credentials(case, tmp_path))
    outcome = await client.allocate(AllocateRequest(), deadline=asyncio.get_running_loop().time() + 2)
    await client.close()
    assert isinstance(outcome, Unreachable)
    assert outcome.reason == "ALLOCATOR_UNREACHABLE"


async def test_a_failure_that_has_passed_is_told_no_more(tmp_path: Path) -> None:
    case = replace(CASES["the allocator's is a stranger's"])
    files = credentials(case, tmp_path)
    async with allocator(case) as address:
        client = AllocatorClient(address, files)
        before = await client.allocate(AllocateRequest(), deadline=asyncio.get_running_loop().time() + 2)
        assert files.ca is not None
        files.ca.write_text(pem([OTHER.certificate]))
        client.refresh()
        after = await client.allocate(AllocateRequest(), deadline=asyncio.get_running_loop().time() + 5)
        await client.close()

    assert isinstance(before, Unreachable)
    assert before.reason == "TLS_FAILED"
    assert isinstance(after, AllocateResponse)
