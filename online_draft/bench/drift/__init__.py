"""How often drift raises a false alarm, how late a true one comes, and whether its verdict is right.

On synthetic samples, seeded: `python -m online_draft.bench.drift`.
"""
