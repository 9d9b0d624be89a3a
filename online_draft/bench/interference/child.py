"""`python -m online_draft.bench.interference.child PLACE CONFIG`: the learner in a process of its own.

Its actor, without Ray. It ends when its standard input does.
"""

from __future__ import annotations

import json
import sys

from online_draft.learner.actor import LearnerActor


def main() -> None:
    """Learn until nobody wants it any more."""
    actor = LearnerActor(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
    sys.stdin.read()
    actor.shutdown()


if __name__ == "__main__":
    main()
