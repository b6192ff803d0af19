"""The page as people use it: in a real browser, against a real allocator."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.keys import Keys

from browser.program import Program, running
from browser.reader import Reader
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

EVIL = "<img src=x onerror=document.title='owned'><b>bold"


def allocate(program: Program, name: str, *, policy: pb.Policy.ValueType = pb.POLICY_DYNAMIC) -> pb.Allocation:
    """A lease, through the API."""
    request = pb.AllocateRequest(
        owner=pb.Owner(kind="Relay", namespace="tests", name=name), policy=policy, ports=[pb.PortRequest(name="rtp")]
    )
    with grpc.insecure_channel(program.grpc) as channel:
        return pb_grpc.AllocatorServiceStub(channel).Allocate(request, timeout=10).allocation


def asked(reader: Reader) -> dict[str, list[str]]:
    return parse_qs(urlsplit(reader.address).query)


def test_everything_is_there(reader: Reader, few: Program) -> None:
    reader.open(few)

    claims = few.get("/status")["claims"]
    assert reader.all(".tile b") == [str(claims[state]) for state in reader.all(".tile .name")]
    assert sorted(reader.all(".node .name")) == ["worker-0", "worker-1", "worker-2", "worker-3"]
    labels = [
        canvas.get_attribute("aria-label") for canvas in reader.driver.find_elements("css selector", ".node canvas")
    ]
    assert all("of 128 numbers used" in str(label) for label in labels)
    assert len(reader.all("#claim-rows tr")) == 40
    assert "PORT_CONFLICT" in reader.text("#decision-rows")
    assert reader.all(".command code")[-2:] == [
        "$ hostport list -A",
        '$ kubectl -n hostport-system logs deploy/hostport-allocator | grep \'"message":"allocate"\'',
    ]
    assert reader.driver.title == "HostPort allocator"


def test_a_pod_shows_its_network_and_what_it_was_warned_of(reader: Reader, few: Program) -> None:
    reader.open(few)

    notes = set(reader.all("#claim-rows .note"))
    assert {"mapped into the Pod's own network", "⚠ MANY_PORTS, UNKNOWN_ANNOTATION"} <= notes


def test_strips_are_painted(reader: Reader, few: Program) -> None:
    reader.open(few)

    colours = reader.driver.execute_script("""
      const canvas = document.querySelector(".node canvas");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const seen = new Set();
      for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 3).join());
      return [...seen];
    """)
    assert {"15,130,120", "230,235,240"} <= set(colours)  # BOUND, and free


def test_an_allocation_appears_by_itself(reader: Reader, few: Program) -> None:
    reader.open(few)
    leased = int(reader.all(".tile[data-state=LEASED] b")[0])

    claim = allocate(few, "newcomer")

    reader.until(lambda: reader.all(".tile[data-state=LEASED] b") == [str(leased + 1)])
    first = reader.until(lambda: [row for row in reader.all("#claim-rows tr")[:1] if "newcomer" in row])[0]
    assert f"{claim.ports[0].host_port}/TCP rtp" in first
    reader.until(lambda: "tests/newcomer" in reader.all("#decision-rows .who")[0])
    reader.until(lambda: claim.node in reader.text(".node .name"))


def test_a_filter_narrows_the_claims_and_stands_in_the_address(reader: Reader, few: Program) -> None:
    reader.open(few)

    reader.find("#q").send_keys("proxy")
    rows = reader.until(lambda: [r for r in [reader.all("#claim-rows tr .owner")] if len(r) == 4 and "proxy" in r[0]])[
        0
    ]
    assert all("proxy" in row for row in rows)
    assert asked(reader) == {"q": ["proxy"]}
    assert reader.text("#claims-command code") == "$ hostport list -A | grep -F -- proxy"

    reader.driver.get(reader.address)  # the address alone brings the same
    reader.until(lambda: reader.text("#claims-count") == "4 found")
    assert reader.find("#q").get_attribute("value") == "proxy"

    reader.find("#q").send_keys(Keys.ESCAPE)
    reader.until(lambda: "found" not in reader.text("#claims-count"))
    assert asked(reader) == {}


def test_a_node_and_a_port_are_answered_at_the_top(reader: Reader, few: Program) -> None:
    reader.open(few)
    port = next(each for each in few.get("/nodes/worker-2")["ports"] if each["id"])

    reader.keys("/", f"worker-2 {port['number']}")
    reader.until(lambda: reader.text("#answer-text").startswith(f"{port['number']} on worker-2 is held by"))
    assert port["owner"]["name"] in reader.text("#answer-text")
    assert reader.text("#answer-command code") == f"$ hostport who worker-2 {port['number']}/{port['protocol']}"
    top = reader.driver.execute_script("return document.querySelector('#answer').getBoundingClientRect().top")
    assert 0 < top < 400
    assert asked(reader) == {"q": [f"worker-2 {port['number']}"]}

    reader.keys(Keys.ESCAPE)
    reader.until(lambda: reader.text("#answer") == "")


def test_links_open_where_they_point(reader: Reader, few: Program) -> None:
    reader.open(few)

    reason = reader.find("#decision-rows .reason a")
    assert str(reason.get_attribute("href")).endswith(f"/troubleshooting.html#{reason.text.lower()}")
    warned = reader.find("#claim-rows .warned a")
    assert str(warned.get_attribute("href")).endswith("/contract.html#warnings")
    link = reader.find("#claim-rows a.text")
    name, address = link.text, str(link.get_attribute("href"))
    link.click()
    reader.until(lambda: reader.all(".node .name") == [name])
    reader.until(lambda: reader.all(".detail tbody tr"))

    reader.driver.get("about:blank")
    reader.driver.get(address)  # the same in a window of its own
    reader.until(lambda: reader.all(".node .name") == [name])
    reader.until(lambda: reader.all(".detail tbody tr"))


def test_tiles_namespaces_and_nodes_filter(reader: Reader, few: Program) -> None:
    reader.open(few)

    reader.find(".tile[data-state=OUTSIDER]").click()
    reader.until(lambda: set(reader.all("#claim-rows .state")) == {"OUTSIDER"})
    assert reader.find(".tile[data-state=OUTSIDER]").get_attribute("aria-pressed") == "true"
    reader.find(".tile[data-state=OUTSIDER]").click()
    reader.until(lambda: len(reader.all("#claim-rows tr")) == 40)

    reader.driver.execute_script("document.querySelector('[title=\"Only namespace games\"]').click()")
    reader.until(lambda: reader.all("#chips li") == ["namespace games ✕"])
    reader.until(lambda: all(row.startswith("games/") for row in reader.all("#claim-rows .owner")))
    reader.find("#chips button").click()
    reader.until(lambda: not reader.all("#chips li"))

    reader.find("#q").send_keys("nothing is called like this")
    reader.until(lambda: reader.text("#claims-empty").startswith("No claim is like that."))
    reader.find("#claims-empty button").click()
    reader.until(lambda: len(reader.all("#claim-rows tr")) == 40)


def test_pages_follow_each_other(reader: Reader, few: Program) -> None:
    reader.open(few)
    first = reader.all("#claim-rows .owner")

    reader.find("#claims-pages button:last-child").click()
    second = reader.until(lambda: [rows for rows in [reader.all("#claim-rows .owner")] if rows and rows != first])[0]

    assert not set(first) & set(second)
    assert reader.text("#claims-pages span") == "Page 2 of 2"
    assert reader.find("#claims-pages button:last-child").get_property("disabled") is True
    assert asked(reader) == {"page": ["2"]}


def test_a_node_opens_with_the_keyboard_and_says_who_holds_what(reader: Reader, few: Program) -> None:
    reader.open(few)

    reader.keys("n", "worker-2")
    reader.until(lambda: reader.all(".node .name") == ["worker-2"])
    while reader.focused.get_attribute("class") != "node":
        reader.keys(Keys.TAB)
    reader.keys(Keys.ENTER)
    reader.until(lambda: reader.all(".detail tbody tr"))

    view = few.get("/nodes/worker-2")
    assert len(reader.driver.find_elements("css selector", ".detail tbody tr")) == len(view["ports"])
    assert f"$ hostport who worker-2 {view['ports'][0]['number']}/TCP" in reader.all(".detail td code")[0]
    assert "$ hostport node worker-2" in reader.all(".detail > .command code")
    assert asked(reader) == {"name": ["worker-2"], "open": ["worker-2"]}
    reader.keys(Keys.ENTER)
    reader.until(lambda: not reader.all(".detail"))


def test_a_node_shows_services_processes_and_who_does_not_listen(reader: Reader, few: Program) -> None:
    reader.open(few, "?name=worker-1&open=worker-1")
    reader.until(lambda: reader.all(".detail tbody tr"))

    told = reader.text(".detail .says")
    rows = {row.split()[0]: " ".join(row.split()) for row in reader.all(".detail tbody tr")}

    assert "Its agent reported" in told
    assert "outgoing connections take 32768\u201360999; 2 open numbers of no Pod." in told
    assert "nginx process PROCESS" in rows["8088/TCP"]
    assert "games/lobby Service SERVICE" in rows["31080/TCP"]
    assert any("✗ nobody" in row for row in rows.values())


def test_keys_lead_to_the_filter_and_out_of_it(reader: Reader, few: Program) -> None:
    reader.open(few)

    reader.keys(Keys.TAB)
    assert reader.focused.text == "Skip to the claims"
    reader.keys("/")
    assert reader.focused.get_attribute("id") == "q"
    reader.keys("/")
    assert reader.find("#q").get_attribute("value") == "/"
    reader.keys(Keys.ESCAPE)
    assert reader.find("#q").get_attribute("value") == ""


def test_names_are_text_whatever_is_in_them(reader: Reader, few: Program) -> None:
    allocate(few, EVIL)

    reader.open(few, "?state=LEASED")
    reader.until(lambda: EVIL in reader.text("#claim-rows"))

    reader.until(lambda: EVIL in reader.text("#decision-rows"))
    assert reader.driver.find_elements("css selector", "#claim-rows img, #decision-rows img") == []
    assert reader.driver.title == "HostPort allocator"


def test_times_tick(reader: Reader, few: Program) -> None:
    reader.open(few)
    reader.driver.execute_script(
        "window.told = document.querySelector('#decision-rows time'); told.dateTime = new Date(Date.now() - 57500).toISOString()"
    )

    reader.until(lambda: reader.driver.execute_script("return told.textContent") == "58 s ago")
    reader.until(lambda: reader.driver.execute_script("return told.textContent") == "1 min ago")


def is_found_again(reader: Reader) -> bool:
    """Presses the button until the banner is gone: while the page is drawn anew it moves away under the pointer."""
    with contextlib.suppress(WebDriverException):
        reader.find("#retry").click()
    return reader.text("#banner") == ""


def test_a_lost_stream_is_told_and_found_again(reader: Reader, tmp_path: Path) -> None:
    reader.forgiven = (
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
        "ERR_EMPTY_RESPONSE",
        "ERR_CONNECTION_RESET",
    )
    with running(tmp_path) as program:
        reader.open(program)
        assert reader.text("#banner") == ""
    reader.until(lambda: "The stream from the allocator is lost" in reader.text("#banner"))
    assert reader.text("#health") == "? Not known"

    with running(tmp_path, http=program.http):
        reader.until(lambda: is_found_again(reader))
        reader.until(lambda: reader.text("#health") == "✓ Serving")
        reader.leave()


def test_an_allocator_that_waits_says_for_what_and_an_empty_one_what_to_do(reader: Reader, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    with running(tmp_path, f"--cluster=file:{cluster}") as program:
        reader.driver.get(f"http://{program.http}/")
        reader.until(lambda: reader.text("#health") == "✗ Not serving")
        assert "✗ cluster: waiting for the first full view" in reader.text("#troubles")
        assert reader.driver.title == "✗ HostPort allocator"

        cluster.write_text("kind: Node\nmetadata: {name: n1}\n", encoding="utf-8")
        reader.until(lambda: reader.text("#health") == "✓ Serving")
        assert reader.text("#troubles") == ""
        assert "Nobody holds a port yet" in reader.text("#claims-empty")
        assert "grpcurl -plaintext" in reader.text("#claims-empty code")
        assert reader.text("#decisions-empty") == "Nobody has asked since the start."
        reader.until(lambda: reader.all(".node .name") == ["n1"])
        reader.leave()


def test_a_thousand_nodes_are_a_page_a_map_and_a_search(reader: Reader, many: Program) -> None:
    reader.open(many)

    assert reader.text("#nodes-count") == "1,000"
    assert len(reader.all(".node")) == 20
    assert reader.text("#nodes-pages span") == "Page 1 of 50"
    assert "How full each node is." in str(reader.find("#map").get_attribute("aria-label"))
    painted = reader.driver.execute_script("""
      const map = document.querySelector("#map");
      return [map.columns, map.getContext("2d").getImageData(5, 5, 1, 1).data[3]];
    """)
    assert painted == [92, 255]
    reader.find("#node-name").send_keys("worker-777")
    reader.until(lambda: reader.all(".node .name") == ["worker-777"])
    reader.find("#range").send_keys("1")
    reader.until(lambda: "of 65,5" in str(reader.find("#fleet-strip").get_attribute("aria-label")))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_in_anybodys_way(reader: Reader, few: Program, width: int, dark: bool) -> None:
    reader.show(width, 900, dark=dark)
    reader.open(few, "?open=worker-0&namespace=edge&result=refused&q=worker-0:7000")
    reader.until(lambda: reader.all(".detail tbody tr"))

    assert reader.barriers() == {}
    assert reader.driver.execute_script("return document.documentElement.scrollWidth") == width


def test_no_barrier_where_something_is_wrong_or_missing(reader: Reader, tmp_path: Path) -> None:
    with running(tmp_path, f"--cluster=file:{tmp_path / 'none.yaml'}") as program:
        reader.driver.get(f"http://{program.http}/?q=x")
        reader.until(lambda: reader.text("#troubles"))
        reader.until(lambda: reader.text("#claims-empty"))

        assert reader.barriers() == {}
        reader.leave()
