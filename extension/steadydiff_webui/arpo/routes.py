"""ARPO over HTTP, where the host serves its own API: begin a search, look at it, cancel it.

    POST /steadydiff/arpo               {"image": base64, "search": {"iterations": 2}, "drawing": {...}, ...}
         of several: {"images": [base64, ...], "search": {"combine": "mean"}, ...}
    GET  /steadydiff/arpo               the parts and their inputs, with defaults, bounds and tooltips
    GET  /steadydiff/arpo/{id}          state, prompt found, scores; with ?images=true the drawings too
    POST /steadydiff/arpo/{id}/cancel

They ask for the same name and password as the host's own API (--api-auth).
"""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from secrets import compare_digest
from typing import Any

from fastapi import Body, Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import script_callbacks, shared
from PIL import Image

from steadydiff.arpo.clip_scorer import as_pil
from steadydiff.arpo.log import as_dict
from steadydiff.errors import SteadyDiffError
from steadydiff.picture_files import read_picture

from .search import Search
from .settings import parts
from .tab import Searches

PATH = "/steadydiff/arpo"


def register(searches: Searches) -> None:
    """Serve the routes where the API is on; called at every load of the script."""
    if shared.cmd_opts.api or shared.cmd_opts.nowebui:
        script_callbacks.on_app_started(lambda _, app: add_routes(app, searches))


def add_routes(app: FastAPI, searches: Searches) -> None:
    pairs = (pair.partition(":") for pair in (shared.cmd_opts.api_auth or "").split(",") if pair)
    known = {name: password for name, _, password in pairs}

    def allowed(given: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 (FastAPI's way)
        password = known.get(given.username)
        if password is None or not compare_digest(given.password.encode(), password.encode()):
            raise HTTPException(401, "wrong name or password", {"WWW-Authenticate": "Basic"})

    def found(name: str) -> Search:
        if search := searches.get(name):
            return search
        raise HTTPException(404, f"there is no search {name}; only the last {searches.KEPT} are kept")

    def begin(wish: dict = Body()) -> dict:  # noqa: B008
        given = {part: values for part, values in wish.items() if part not in ("image", "images")}
        images = wish.get("images") or [wish.get("image")]
        if not isinstance(images, list):
            raise HTTPException(422, "images is a list of pictures in base64; one picture is an image")
        try:
            search = searches.begin([decoded(image) for image in images], given)
        except SteadyDiffError as error:
            raise HTTPException(422, str(error)) from None
        return {"id": search.id}

    def look(name: str, images: bool = False) -> dict:
        return as_json(found(name), images)

    def cancel(name: str) -> dict:
        found(name).cancel()
        return {}

    def describe() -> dict:
        return {
            part: [{"kind": one.kind, **asdict(one)} for one in inputs] for part, inputs in parts().items()
        }

    guards = [Depends(allowed)] if known else []
    for path, endpoint, method in (
        (PATH, begin, "POST"),
        (PATH, describe, "GET"),
        (PATH + "/{name}", look, "GET"),
        (PATH + "/{name}/cancel", cancel, "POST"),
    ):
        app.add_api_route(path, endpoint, methods=[method], dependencies=guards)


def decoded(image: Any) -> Image.Image:
    """A picture sent as base64, with or without the head of a data URL."""
    try:
        data = base64.b64decode(image.partition(",")[2] or image)
    except (AttributeError, TypeError, ValueError):
        raise HTTPException(422, "image is a picture in base64, e.g. of a PNG file") from None
    return read_picture(data, "image")


def encoded(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def as_json(search: Search, images: bool) -> dict:
    state, status = search.state, search.status  # first: once it is done, all its steps are there
    log, best = search.log, search.best
    steps = as_dict(log)["steps"] if log else []
    if log and images:
        steps = [
            s | {"image": encoded(as_pil(step.picture))} for s, step in zip(steps, log.steps, strict=True)
        ]
    return {
        "state": state,
        "status": status,
        "prompt": search.prompt(best) if best else "",
        "negative": search.negative(best) if best else "",
        "infotext": search.infotext(best) if best else "",
        "steps": steps,
    }
