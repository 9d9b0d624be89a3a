"""Where the target's hidden states come from when the learner doesn't hold the whole target."""
