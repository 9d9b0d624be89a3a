"""`distill`: prompts, answers, shards, the course of a training from scratch."""
