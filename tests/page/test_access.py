"""Who may see the page."""

from __future__ import annotations

import pytest

from allocator.page.access import Audience, PageAccess, hostname, parse_names

ALL = PageAccess(audience=Audience.ALL)
NAMED = PageAccess(audience=Audience.ALL, names=parse_names("Status.example.com, x"))


@pytest.mark.parametrize(
    ("access", "peer", "host", "site", "says"),
    [
        (PageAccess(), "127.0.0.1", "localhost:8081", "", None),
        (PageAccess(), "127.8.9.1", "127.0.0.1:8081", "none", None),
        (PageAccess(), "::1", "[::1]:8081", "same-origin", None),
        (PageAccess(), "::ffff:127.0.0.1", "LOCALHOST.", "", None),
        (PageAccess(), "10.0.0.7", "localhost", "", "kubectl -n hostport-system port-forward"),
        (PageAccess(), "", "localhost", "", "this machine only"),
        (PageAccess(), "127.0.0.1", "evil.example", "", "--page-hosts"),
        (PageAccess(), "127.0.0.1", "localhost.evil.example", "", "--page-hosts"),
        (PageAccess(), "127.0.0.1", "", "", "--page-hosts"),
        (PageAccess(), "127.0.0.1", "localhost", "cross-site", "another site"),
        (PageAccess(), "127.0.0.1", "localhost", "same-site", "another site"),
        (ALL, "10.0.0.7", "10.0.0.9:8081", "", None),
        (ALL, "10.0.0.7", "status.example.com", "", "--page-hosts"),
        (NAMED, "10.0.0.7", "STATUS.example.com:80", "", None),
        (NAMED, "10.0.0.7", "other.example.com", "", "--page-hosts"),
        (PageAccess(audience=Audience.NOBODY), "127.0.0.1", "localhost", "", "--page off"),
    ],
)
def test_who_may_see_it(access: PageAccess, peer: str, host: str, site: str, says: str | None) -> None:
    objection = access.objection(peer=peer, host=host, site=site)

    assert objection is None if says is None else says in str(objection)


@pytest.mark.parametrize(
    ("host", "name"), [("[::1]:80", "::1"), ("[::1]", "::1"), ("A.b:80", "a.b"), ("a.b.", "a.b"), ("", ""), ("[", "")]
)
def test_a_host_without_its_port(host: str, name: str) -> None:
    assert hostname(host) == name


@pytest.mark.parametrize("text", ["http://x", "a b", "*", "-a", "x:80"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no host name"):
        parse_names(text)
