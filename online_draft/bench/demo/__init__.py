"""The demo: serve one domain, shift to another, watch the drafter learn it."""

from online_draft.bench.demo.options import DemoOptions
from online_draft.bench.demo.run import run

__all__ = ["DemoOptions", "run"]
