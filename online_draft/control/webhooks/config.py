"""Where messages go, and how long somebody tries. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """`url` gets messages as JSON, signed with `secret` if there is one, `slack_url` in Slack's form; None:
    nobody is there. URLs are secrets, too. A receiver has `timeout_s` to take a connection, and again to
    answer. What wasn't delivered `give_up_s` after it happened is dropped. `model` is named in messages."""

    url: str | None = field(default=None, repr=False)
    slack_url: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    timeout_s: float = 5.0
    give_up_s: float = 3600.0
    model: str = ""
