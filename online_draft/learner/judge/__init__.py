"""Whether a candidate is better: examination, gate, guard, the ladder as the learner sees it."""
