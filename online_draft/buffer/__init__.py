"""The replay buffer: the log of served interactions in Redis, and the learner's reservoirs over it."""
