"""What trains: the learner's loop, its idleness, its gate and its checkpoints."""
