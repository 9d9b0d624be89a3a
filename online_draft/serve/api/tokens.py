"""`/tokenize` and `/detokenize`, in vLLM's shapes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, StrictBool, StrictStr, model_validator

from online_draft.errors import RequestError
from online_draft.serve.api.bodies import parse_body, read_body
from online_draft.serve.api.fields import Text, Token
from online_draft.serve.api.jobs import caller_of
from online_draft.serve.api.messages import ChatTemplateOptions, Message
from online_draft.serve.api.model import Catalogue
from online_draft.serve.api.openapi import errors, takes
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import DetokenizeReply, TokenizeReply


class TokenizeBody(ChatTemplateOptions):
    """Body of `/tokenize`: either `prompt` or `messages`."""

    model: StrictStr | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: StrictBool | None = None
    """For a prompt only; true by default."""
    return_token_strs: StrictBool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either prompt or messages must be given")
        return self


class DetokenizeBody(BaseModel):
    """Body of `/detokenize`."""

    model: StrictStr | None = None
    tokens: list[Token]


def build_token_router(models: Catalogue) -> APIRouter:
    """Both routes. They work in a thread, so that a long text holds nobody up."""
    router = APIRouter(tags=["tokens"])
    failures = errors(400, 401, 403, 404, 413, 429)

    @router.post(
        "/tokenize", openapi_extra=takes(TokenizeBody), responses={200: {"model": TokenizeReply}, **failures}
    )
    async def tokenize(request: Request) -> Response:
        body = parse_body(await read_body(request), TokenizeBody)
        encoder = models.find(body.model, caller_of(request.scope)).encoder
        return JSONResponse(await asyncio.to_thread(_tokenize, body, encoder))

    @router.post(
        "/detokenize",
        openapi_extra=takes(DetokenizeBody),
        responses={200: {"model": DetokenizeReply}, **failures},
    )
    async def detokenize(request: Request) -> Response:
        body = parse_body(await read_body(request), DetokenizeBody)
        encoder = models.find(body.model, caller_of(request.scope)).encoder
        return JSONResponse({"prompt": await asyncio.to_thread(_detokenize, body, encoder)})

    return router


def _tokenize(body: TokenizeBody, encoder: PromptEncoder) -> dict[str, Any]:
    if body.prompt is not None:
        ids = encoder.tokenize(body.prompt, body.add_special_tokens is not False)
    else:
        if body.add_special_tokens:
            raise RequestError(
                "add_special_tokens: the chat template writes them",
                "add_special_tokens",
                "unsupported_parameter",
            )
        turns = [message.turn() for message in body.messages or ()]
        ids = encoder.chat(
            turns, body.opens_answer, bool(body.continue_final_message), body.chat_template_kwargs
        )
    reply: dict[str, Any] = {"count": len(ids), "max_model_len": encoder.max_context, "tokens": ids}
    if body.return_token_strs:
        reply["token_strs"] = [encoder.vocabulary.name(token) or f"token_id:{token}" for token in ids]
    return reply


def _detokenize(body: DetokenizeBody, encoder: PromptEncoder) -> str:
    encoder.check_ids(body.tokens, "tokens")
    return encoder.vocabulary.decode(body.tokens, skip_special_tokens=False)
