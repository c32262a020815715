"""Where other nodes reach one: what stands in its registration."""

import ipaddress
import socket

import aiohttp
import pytest
from aiohttp import web

from orchestrator.http.addresses import authority, reachable_address
from orchestrator.http.connections import listening


@pytest.mark.parametrize("bound", ["127.0.0.1:8080", "10.1.2.3:1", "[::1]:8080", "[2001:db8::7]:80", "example:8080"])
def test_what_is_bound_to_one_address_is_reached_there(bound: str) -> None:
    """Loopback too: who binds to that has all nodes on one machine."""
    assert bound == reachable_address(bound)


def test_what_is_bound_to_all_addresses_is_reached_at_one_of_this_machine() -> None:
    """Its own address as the kernel would use it, or its name; never the wildcard, which leads to oneself."""
    for bound in ("0.0.0.0:8080", "[::]:8080"):
        host, _, port = reachable_address(bound).rpartition(":")
        assert "8080" == port
        if host != socket.gethostname():
            assert not ipaddress.ip_address(host.strip("[]")).is_unspecified
            assert host.startswith("[") == bound.startswith("[")


def test_an_ipv6_address_stands_in_brackets() -> None:
    """As a URL wants it."""
    assert ["1.2.3.4:80", "host:80", "[::1]:80"] == [authority(host, 80) for host in ("1.2.3.4", "host", "::1")]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
async def test_a_node_answers_where_it_says_that_it_is(host: str) -> None:
    """With the port that it got where 0 was asked for."""
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    application = web.Application()
    application.router.add_get("/", hello)
    async with (
        listening(application, host=host, port=0) as bound,
        aiohttp.ClientSession() as http,
        http.get(f"http://{reachable_address(bound)}/") as answer,
    ):
        assert "hello" == await answer.text()
