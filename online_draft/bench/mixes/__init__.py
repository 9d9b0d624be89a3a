"""What the learner learns and forgets by what its batches are mixed of.

The same recorded answers for every mix, without gate and ladder: `python -m online_draft.bench.mixes`. With
both, at full size and for hours: `bench shift --simulate --mix`.
"""
