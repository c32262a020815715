"""The OpenAPI document as a page for people: one static HTML text, without scripts and without other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final, cast

from orchestrator.session.values import Json, JsonObject, compact_json

PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
}
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid #ccc; padding-top: 1rem; } h2 code { font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; }
td { border: 1px solid #ddd; padding: .3rem .6rem; vertical-align: top; }
code { overflow-wrap: anywhere; } pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } pre { background: #262626; } }
"""


def page(document: JsonObject) -> str:
    """Return the page."""
    info = _part(document, "info")
    title = escape(str(info["title"]))
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{title} {escape(str(info['version']))}</h1><p>{escape(str(info['description']))}</p>",
            "<p>The same for machines: <code>/openapi.json</code></p>",
            *_endpoints(document),
            "<h2>Schemas</h2>",
            *_schemas(document),
            "</body></html>",
        ]
    )


def _endpoints(document: JsonObject) -> Iterator[str]:
    for path, methods in _part(document, "paths").items():
        for method, operation in cast("dict[str, JsonObject]", methods).items():
            yield f'<h2 id="{escape(str(operation["operationId"]))}"><code>{method.upper()} {escape(path)}</code></h2>'
            yield f"<p>{escape(str(operation['summary']))}</p>"
            yield _table(_parameters(operation))
            if "requestBody" in operation:
                yield f"<p>Body</p>{_code(_part(operation, 'requestBody', 'content'))}"
            yield _table(
                (f"<b>{escape(status)}</b>", escape(str(response["description"])))
                for status, response in cast("dict[str, JsonObject]", operation["responses"]).items()
            )


def _parameters(operation: JsonObject) -> Iterator[tuple[str, ...]]:
    for parameter in cast("list[JsonObject]", operation.get("parameters", [])):
        name = f"<code>{escape(str(parameter['name']))}</code> ({escape(str(parameter['in']))})"
        yield name, escape(str(parameter["description"])), f"<code>{escape(compact_json(parameter['schema']))}</code>"


def _schemas(document: JsonObject) -> Iterator[str]:
    for name, schema in _part(document, "components", "schemas").items():
        yield f"<details><summary><code>{escape(name)}</code></summary>{_code(schema)}</details>"


def _table(rows: Iterator[tuple[str, ...]]) -> str:
    cells = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>" if cells else ""


def _code(value: Json) -> str:
    return f"<pre><code>{escape(compact_json(value))}</code></pre>"


def _part(value: JsonObject, *names: str) -> JsonObject:
    for name in names:
        value = cast("JsonObject", value[name])
    return value
