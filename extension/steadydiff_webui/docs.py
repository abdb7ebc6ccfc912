"""The pages of docs/, as text for a browser, and links to them."""

from __future__ import annotations

import html
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse
from modules import script_callbacks

from steadydiff.files.text import read_text

FOLDER = Path(__file__).resolve().parents[2] / "docs"
PATH = "steadydiff/docs"


def register() -> None:
    """Serve the pages; called at every load of the script."""
    script_callbacks.on_app_started(lambda _, app: add_route(app))


def add_route(app: FastAPI) -> None:
    def page(name: str) -> PlainTextResponse:
        if name not in {file.name for file in FOLDER.glob("*.md")}:
            raise HTTPException(404, f"there is no page {name}")
        return PlainTextResponse(read_text(FOLDER / name))

    app.add_api_route(f"/{PATH}/{{name}}", page, methods=["GET"])


def link(page: str, words: str = "docs") -> str:
    """Return a link to a page, as HTML."""
    return f'<a href="{PATH}/{page}" target="_blank">{html.escape(words)}</a>'
