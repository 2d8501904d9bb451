"""The page at `/`: a few files, which hold no data and need no key."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from seq2edge.serve.calls.call import Serving

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
NAMES: Final = (
    "index.html",
    "page.css",
    "page.js",
    "recorder.js",
    "server.js",
    "uses.js",
    "icon.svg",
)
PATHS: Final = {"/" if name == "index.html" else f"/page/{name}": name for name in NAMES}
HEADERS: Final = {
    # Nothing of another host, nothing inline, and no text is ever read as markup or as a script.
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",  # files of another version do not go together
}


def routes(serving: Serving) -> list[Route]:
    """See the package; none where the settings say so."""
    if not serving.settings.page:
        return []
    folder = files("seq2edge.serve") / "page"
    contents = {path: (folder / name).read_bytes() for path, name in PATHS.items()}

    async def page(request: Request) -> Response:
        path = request.url.path
        media_type = TYPES[PATHS[path].rpartition(".")[2]]
        return Response(contents[path], media_type=media_type, headers=HEADERS)

    return [Route(path, page) for path in PATHS]
