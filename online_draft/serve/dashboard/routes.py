"""`/admin`: the page itself. Whoever has no key sees the sign-in form and nothing else."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from online_draft.serve.admin.auth import AdminAuth
from online_draft.serve.api.errors import ApiError
from online_draft.serve.dashboard.files import StaticFile, read_files
from online_draft.serve.dashboard.session import build_session_router

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def build_dashboard_router(auth: AdminAuth) -> APIRouter:
    """Page, files and sessions."""
    router = APIRouter(include_in_schema=False)
    router.include_router(build_session_router(auth))
    known = read_files()

    @router.get("/admin")
    async def page(request: Request) -> Response:
        return _answer(request, known["index.html"])

    @router.get("/admin/")
    async def page_below() -> Response:
        return RedirectResponse("../admin", headers=HEADERS)  # the page's links start beside it

    @router.get("/admin/static/{path:path}")
    async def static(path: str, request: Request) -> Response:
        if path not in known:
            raise ApiError(404, "there is no such file", code="not_found")
        return _answer(request, known[path])

    return router


def _answer(request: Request, file: StaticFile) -> Response:
    headers = {**HEADERS, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    data = file.data
    if "gzip" in request.headers.get("accept-encoding", ""):
        data, headers["Content-Encoding"] = file.packed, "gzip"
    return Response(data, headers=headers, media_type=file.media_type)
