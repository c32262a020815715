"""The OpenAPI document and its page: they tell what the node serves, no more and no less."""

import re
from typing import Any

from http_stage import sample_app, stage

from orchestrator.app import Orchestrator
from orchestrator.http.openapi import document
from orchestrator.http.page import page
from orchestrator.http.routes import ROUTES


def sample_document(*, needs_key: bool = True) -> Any:
    """Return the document of an application with two session types."""
    return document(ROUTES, sample_app(), needs_key=needs_key)


async def test_the_document_names_every_endpoint_that_answers() -> None:
    """Each of its paths and methods is served: none is unknown to the node."""
    async with stage() as node:
        _, found = await node.ask("GET", "/openapi.json")
        assert sample_document(needs_key=False) == found
        for route in ROUTES:
            async with node.http.request(route.method, f"{node.url}{re.sub('{.*?}', 'x', route.path)}") as answer:
                body = await answer.text()
                assert 405 != answer.status, route
                assert "NOT_FOUND" not in body, route


def test_every_reference_in_the_document_leads_somewhere() -> None:
    """Schemas of the application's own models among them."""
    found = sample_document()
    schemas = found["components"]["schemas"]
    assert set() == set(re.findall(r"#/components/schemas/([\w.-]+)", str(found))) - set(schemas)
    assert "Start.order" in schemas
    assert {"type": "string", "title": "Item"} == schemas["Start.order"]["properties"]["input"]["properties"]["item"]


def test_open_endpoints_need_no_key_and_a_node_without_keys_asks_for_none() -> None:
    """The contract's list: probes and callbacks."""
    paths = sample_document()["paths"]
    needed = {path: operation["security"] for path, methods in paths.items() for operation in methods.values()}
    callbacks = {"/callbacks/{callback_id}", "/callbacks/{callback_id}/a2a"}
    assert {"/ping", "/health", "/ready"} | callbacks == {p for p, keys in needed.items() if not keys}
    assert "security" not in str(sample_document(needs_key=False))


def test_an_application_without_session_types_has_a_document_too() -> None:
    """Its start body is the plain one."""
    assert "StartBody" in str(document(ROUTES, Orchestrator(), needs_key=False))


async def test_the_page_loads_nothing_and_shows_every_endpoint() -> None:
    """No script, no other host, no form; the browser is told to hold it to that."""
    async with stage() as node, node.http.get(f"{node.url}/docs") as answer:
        html = await answer.text()
        assert (200, "text/html") == (answer.status, answer.content_type)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert [] == re.findall(r"<script|<link|<img|<form|src=|href=|https?://", html)
    for route in ROUTES:
        assert f"<code>{route.method} {route.path}</code>" in html


def test_the_page_shows_markup_as_text() -> None:
    """Whatever stands in the document."""
    found = sample_document()
    found["info"] = {"title": "<script>", "version": "1", "description": "<b>"}
    assert "<script>" not in page(found)
    assert "<b>&lt;" not in page(found)
    assert "&lt;script&gt;" in page(found)
