"""Signing in and out: the admin key for a cookie that scripts can't read and other sites can't send."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from online_draft.serve.admin.auth import COOKIE, SESSION_S, AdminAuth
from online_draft.serve.api.errors import ApiError


class SignInBody(BaseModel):
    """The admin key, or that of an admin in the keys."""

    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=512)]


class SessionReply(BaseModel):
    """Who is signed in, and what to send as `X-CSRF-Token` with every decision."""

    actor: str
    csrf: str


def build_session_router(auth: AdminAuth) -> APIRouter:
    """`/admin/session`: POST signs in, GET tells who one is (204: nobody), DELETE signs out."""
    router = APIRouter(prefix="/admin/session", include_in_schema=False)

    @router.post("")
    async def sign_in(body: SignInBody, request: Request, response: Response) -> SessionReply:
        # A form of another site can't send this content type.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise ApiError(400, "the body must be application/json", code="invalid_value")
        session = auth.sign_in(body.key)
        if session is None:
            raise ApiError(401, "this is not a valid admin key", "key", "invalid_admin_key")
        response.set_cookie(
            COOKIE, session.token,
            max_age=SESSION_S, path=_path(request), httponly=True, samesite="strict",
            secure=_is_https(request),
        )  # fmt: skip
        response.headers["Cache-Control"] = "no-store"
        return SessionReply(actor=session.actor, csrf=session.csrf)

    @router.get("", response_model=SessionReply)
    async def who(request: Request, response: Response) -> Response | SessionReply:
        response.headers["Cache-Control"] = "no-store"
        session = auth.session_of(request)
        if session is None:
            return Response(status_code=204, headers=response.headers)
        return SessionReply(actor=session.actor, csrf=session.csrf)

    @router.delete("", status_code=204)
    async def sign_out(request: Request) -> Response:
        response = Response(status_code=204)
        response.delete_cookie(
            COOKIE, path=_path(request), httponly=True, samesite="strict", secure=_is_https(request)
        )
        return response

    return router


def _path(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}/admin"


def _is_https(request: Request) -> bool:
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
