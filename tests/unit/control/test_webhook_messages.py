"""The forms of a message."""

from __future__ import annotations

import hashlib
import hmac
import json

from online_draft.control.webhooks.config import WebhookConfig
from online_draft.control.webhooks.message import Message, as_json, as_slack, signature

MESSAGE = Message.new("raised", "tiny", "drift", "<!channel> & co", "it *fell*", 1_000, 2_000)


def test_json_has_every_field() -> None:
    assert json.loads(as_json(MESSAGE)) == {
        "id": MESSAGE.id, "event": "raised", "model": "tiny", "code": "drift", "about": "<!channel> & co",
        "message": "it *fell*", "since_ms": 1_000, "at_ms": 2_000,
    }  # fmt: skip


def test_slack_gets_one_text_in_which_a_segment_mentions_nobody() -> None:
    (text,) = json.loads(as_slack(MESSAGE)).values()
    assert text == ":rotating_light: *drift* (tiny) &lt;!channel&gt; &amp; co: it *fell*"
    cleared = Message.new("cleared", "", "drift", "sql", "it fell", 1_000, 3_000)
    assert json.loads(as_slack(cleared))["text"] == ":white_check_mark: cleared: *drift* sql: it fell"


def test_an_id_names_one_event() -> None:
    again = Message.new("raised", "tiny", "drift", "<!channel> & co", "other words", 1, 2_000)
    later = Message.new("raised", "tiny", "drift", "<!channel> & co", "it *fell*", 1_000, 2_001)
    assert again.id == MESSAGE.id != later.id


def test_a_signature_is_the_bodys_hmac() -> None:
    right = hmac.new(b"hush", b"body", hashlib.sha256).hexdigest()
    assert signature("hush", b"body") == f"sha256={right}" != signature("hush", b"bodY")


def test_secrets_are_not_shown() -> None:
    shown = repr(WebhookConfig("http://me/s3cret", "http://slack/s3cret", "s3cret"))
    assert "s3cret" not in shown
