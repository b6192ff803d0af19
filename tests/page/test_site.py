"""The page over HTTP: views, methods, headers, mistakes, and the stream."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from allocator.core.claims import ClusterChange
from allocator.health import InstanceInfo
from allocator.page.access import Audience, PageAccess
from allocator.page.live import MOST_READERS
from hostport.v1 import allocator_pb2 as pb
from testing.kit import node
from testing.sitekit import Open, Site


def two_ports(name: str = "db-0", **fields: Any) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        owner=pb.Owner(kind="Pod", namespace="demo", name=name),
        ports=[
            pb.PortRequest(container="node", name="primary", container_port=8080),
            pb.PortRequest(container="node", name="metrics", container_port=9090),
        ],
        index=int(name.rpartition("-")[2]),
        range=pb.PortRange(min=10000),
        **fields,
    )


LEASE = pb.AllocateRequest(
    owner=pb.Owner(kind="Relay", namespace="media", name="r1"),
    policy=pb.POLICY_DYNAMIC,
    ports=[pb.PortRequest(name="rtp", protocol=pb.PROTOCOL_UDP)],
    ttl=Duration(seconds=60),
)
VIEWS = ["/status", "/nodes", "/nodes/localhost", "/claims", "/decisions"]


async def test_the_page_is_html_and_loads_nothing_from_elsewhere(site: Site) -> None:
    answer = await site.get("/", Accept="text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8")
    html = answer.body.decode()
    files = re.findall(r'(?:src|href)="(/page/[^"]+)"', html)

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert {"/page/style.css", "/page/page.js", "/page/icon.svg"} == set(files)
    assert not re.search(r"<style|style=|<script(?! type=\"module\" src)|\son\w+=|https?://(?!localhost)", html)
    for name, content in site.page.assets.items():
        assert (await site.get(f"/page/{name}")).code == 200
        assert not re.search(rb"@import|url\(|https?://(?!localhost|www\.w3\.org/2000/svg)", content), name
        for module in re.findall(rb'from "\./([^"]+)"', content):
            assert module.decode() in site.page.assets


async def test_every_answer_has_the_strict_headers(site: Site) -> None:
    for path in ["/", "/page/page.js", "/nowhere/at/all", *VIEWS]:
        headers = (await site.get(path)).headers
        if path.startswith("/nowhere"):
            continue
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/events", *VIEWS])
async def test_it_is_read_only(site: Site, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert (await site.ask(method, path)).code == 405
    head = await site.ask("HEAD", path)
    assert (head.code, head.body) == (200, b"")


@pytest.mark.parametrize("path", ["/", "/events", "/page/page.js", *VIEWS])
async def test_who_may_not_see_it_sees_nothing_but_why(open_site: Open, path: str) -> None:
    site = await open_site(PageAccess(audience=Audience.NOBODY))

    answer = await site.get(path)

    assert (answer.code, answer.body) == (403, b"the status page is turned off (--page off)\n")
    assert (await site.get("/healthz")).code == 200
    assert (await site.get("/metrics")).code == 200


async def test_a_foreign_name_and_a_foreign_site_are_refused_but_a_link_is_followed(site: Site) -> None:
    assert (await site.get("/claims", Host="rebound.example")).code == 403
    assert (await site.get("/claims", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors")).code == 403
    assert (await site.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")).code == 200


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("/claims?state=x", 400, "state is 'x'"),
        ("/nodes?range=1", 400, "range is '1'"),
        ("/nodes/localhost?range=1", 400, "range is '1'"),
        ("/decisions?result=x", 400, "result is 'x': one of granted, previewed, refused, unavailable"),
        ("/nodes/nowhere", 404, "no node nowhere"),
        ("/page/secret.txt", 404, "no such file"),
        ("/claims?q=%FF", 400, ""),
    ],
)
async def test_mistakes_are_told_in_plain_text(site: Site, path: str, code: int, says: str) -> None:
    answer = await site.get(path)

    assert (answer.code, answer.headers["Content-Type"]) == (code, "text/plain; charset=utf-8")
    assert says in answer.body.decode()


async def test_the_views_show_what_was_allocated(site: Site) -> None:
    granted = (await site.service.stub.Allocate(two_ports())).allocation
    await site.service.stub.Allocate(LEASE)
    with pytest.raises(grpc.aio.AioRpcError):
        await site.service.stub.Allocate(two_ports(dry_run=False, policy=pb.POLICY_STATIC))

    whole = await site.view("/?range=10000-10199&state=RESERVED")

    assert whole["claims"] == {
        "matching": 1,
        "page": 1,
        "pages": 1,
        "rows": [
            {
                "id": granted.id,
                "state": "RESERVED",
                "unplaceable": False,
                "terminating": False,
                "own_network": False,
                "warnings": [],
                "owner": {"kind": "Pod", "namespace": "demo", "name": "db-0"},
                "node": "localhost",
                "planned": True,
                "ports": [
                    {"name": "primary", "protocol": "TCP", "number": 10000, "last": 10000, "ip": "", "listening": None},
                    {"name": "metrics", "protocol": "TCP", "number": 10100, "last": 10100, "ip": "", "listening": None},
                ],
                "created": "1970-01-01T00:16:40Z",
                "expires": None,
            }
        ],
        "command": "hostport list -A --state RESERVED",
        "answer": None,
    }
    assert whole["status"]["claims"] == {
        "BOUND": 0, "CONFIRMED": 0, "RESERVED": 1, "LEASED": 1, "OUTSIDER": 0, "UNPLACEABLE": 0,
    }  # fmt: skip
    row = whole["nodes"]["rows"][0]
    assert (row["name"], row["used"], row["held"], row["totals"]) == ("localhost", 2, 3, {"RESERVED": 2})
    assert [(one["result"], one["reason"]) for one in whole["decisions"]["rows"]] == [
        ("refused", "HOST_PORT_MISSING"), ("granted", ""), ("granted", ""),
    ]  # fmt: skip
    ports = (await site.view("/nodes/localhost"))["ports"]
    assert [(port["number"], port["state"], port["command"]) for port in ports if port["state"] != "KEPT"] == [
        (10000, "RESERVED", "hostport who localhost 10000/TCP"),
        (10100, "RESERVED", "hostport who localhost 10100/TCP"),
        (7000, "LEASED", "hostport who localhost 7000/UDP"),
    ]
    assert (await site.view("/decisions?result=refused"))["rows"][0]["owner"]["name"] == "db-0"


async def test_what_is_wrong_stands_in_the_header(site: Site) -> None:
    assert (await site.view("/status"))["healthy"] is True

    site.troubles["cluster"] = "waiting for the first full view"
    site.service.engine.around.holds_lease = lambda: False
    status = await site.view("/status")

    assert status["healthy"] is False
    assert status["checks"]["cluster"] == "waiting for the first full view"
    assert "Lease" in status["checks"]["lease"]


async def test_the_header_says_which_start_this_is_and_when_certificates_end(site: Site) -> None:
    site.page.views.info = InstanceInfo(
        version="1.2.3",
        name="here",
        cluster="kubernetes",
        started=900.0,
        epoch="0123abcd",
    )
    site.service.metrics.certificate("allocator", lambda: 86400.0)
    site.service.metrics.trust(lambda: {"5f2c9d3e8a7b6c10": 172800.0})

    status = await site.view("/status")

    assert {
        name: status[name] for name in ("version", "instance", "epoch", "started", "certificates", "authorities")
    } == {
        "version": "1.2.3",
        "instance": "here",
        "epoch": "0123abcd",
        "started": "1970-01-01T00:15:00Z",
        "certificates": {"allocator": "1970-01-02T00:00:00Z"},
        "authorities": {"5f2c9d3e8a7b6c10": "1970-01-03T00:00:00Z"},
    }


async def test_claims_and_nodes_come_in_pages_the_latest_claim_first(site: Site) -> None:
    site.service.engine.maintenance.observe(
        ClusterChange(nodes=[node(f"n{number:02}") for number in range(30)], lists_pods=False)
    )
    for number in range(45):
        await site.service.stub.Allocate(two_ports(f"db-{number}"))

    first, last = await site.view("/claims"), await site.view("/claims?page=9")
    assert (first["matching"], first["pages"], first["rows"][0]["owner"]["name"]) == (45, 2, "db-44")
    assert (last["page"], [row["owner"]["name"] for row in last["rows"]]) == (
        2,
        ["db-4", "db-3", "db-2", "db-1", "db-0"],
    )
    assert (await site.view("/claims?q=db-3"))["matching"] == 11
    nodes = await site.view("/nodes?nodes_page=2&sort=name")
    assert (nodes["total"], nodes["pages"], nodes["rows"][0]["name"]) == (31, 2, "n19")
    assert [row["name"] for row in (await site.view("/nodes?name=n1"))["rows"]] == [f"n1{digit}" for digit in range(10)]


@pytest.mark.parametrize(
    ("search", "text", "command"),
    [
        (
            "localhost 10000",
            "10000 on localhost is held by Pod demo/db-0 (RESERVED).",
            "hostport who localhost 10000/TCP",
        ),
        ("localhost:10000/UDP", "10000/UDP on localhost is free.", "hostport who localhost 10000/UDP"),
        ("localhost:7000", "7000 on localhost is held by Relay media/r1 (LEASED).", "hostport who localhost 7000/UDP"),
        ("nowhere:7000", "No node is called nowhere.", "hostport node"),
        (
            "7000/udp",
            "7000/UDP is held by Relay media/r1 (LEASED), on localhost.",
            "hostport list -A | grep -F -- 7000/UDP",
        ),
        ("7000/tcp", "7000/TCP is held on no node.", "hostport list -A | grep -F -- 7000/TCP"),
        (
            "db-0",
            "Pod demo/db-0 (RESERVED) holds 10000/TCP, 10100/TCP on localhost.",
            "hostport list -A | grep -F -- db-0",
        ),
        ("localhost", "2 claims match.", "hostport list -A | grep -F -- localhost"),
        ("db-0 7000", "No claim is like that.", "hostport list -A | grep -F -- db-0 | grep -F -- 7000"),
    ],
)
async def test_a_search_is_answered_in_a_sentence(site: Site, search: str, text: str, command: str) -> None:
    await site.service.stub.Allocate(two_ports())
    await site.service.stub.Allocate(LEASE)

    view = await site.view(f"/claims?q={quote(search)}")

    assert view["answer"] == {"text": text, "command": command}


async def test_a_number_on_several_nodes_is_counted(site: Site) -> None:
    site.service.engine.maintenance.observe(
        ClusterChange(nodes=[node(f"n{number}") for number in range(3)], lists_pods=False)
    )
    for number in range(3):
        owner = pb.Owner(kind="Relay", namespace="media", name=f"r{number}")
        await site.service.stub.Allocate(
            pb.AllocateRequest(
                owner=owner, policy=pb.POLICY_STATIC, ports=[pb.PortRequest(host_port=9000)],
                constraints=pb.NodeConstraints(node_name=f"n{number}"),
            )
        )  # fmt: skip

    view = await site.view("/claims?q=9000")

    assert view["answer"]["text"] == "9000 is held on 3 nodes, by 3 claims."


async def read_event(stream: asyncio.StreamReader) -> Any:
    async with asyncio.timeout(30):
        while True:
            line = (await stream.readline()).decode()
            if line.startswith("data: "):
                return json.loads(line.removeprefix("data: "))


async def follow(site: Site) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = site.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return reader, writer


async def test_the_stream_tells_of_an_allocation(site: Site) -> None:
    reader, writer = await follow(site)
    before = await read_event(reader)

    await site.service.stub.Allocate(two_ports())
    after = await read_event(reader)

    assert (before["claims"]["RESERVED"], after["claims"]["RESERVED"]) == (0, 1)
    assert after["revision"]["claims"] > before["revision"]["claims"]
    assert (after["revision"]["decisions"], after["viewers"]) == (1, 1)
    writer.close()
    async with asyncio.timeout(30):
        while site.page.live.readers:
            await asyncio.sleep(0.01)


async def test_one_reader_too_many_is_sent_away_and_told_when_to_come_back(site: Site) -> None:
    readers = [await follow(site) for _ in range(MOST_READERS)]
    for reader, _ in readers:
        await read_event(reader)

    answer = await site.get("/events")

    assert (answer.code, answer.headers["Retry-After"]) == (503, "10")
    for _, writer in readers:
        writer.close()
    async with asyncio.timeout(30):
        while (await site.view("/status"))["viewers"]:
            await asyncio.sleep(0.01)
