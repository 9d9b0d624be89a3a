"""Writes a prompt file for distilling the embedded target's drafters.

python -m online_draft.models.embedded.recipe.prompts --domains sql,math --count 600 --out FILE
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from online_draft.models.embedded.domains import DOMAINS, prompts


def write_prompts(path: Path, domains: list[str], count: int, seed: int) -> None:
    """`count` prompts a domain of the training split as JSON lines with `domain` and `prompt`.

    Raises ValueError when a domain is not one of DOMAINS.
    """
    lines = [
        json.dumps({"domain": domain, "prompt": prompt})
        for domain in domains
        for prompt in prompts(domain, count, seed, "train")
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--domains", default=",".join(DOMAINS), help=f"comma-separated, of {', '.join(DOMAINS)}"
    )
    parser.add_argument("--count", type=int, default=600, help="prompts a domain")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_prompts(options.out, options.domains.split(","), options.count, options.seed)


if __name__ == "__main__":
    main()
