"""When the learner may compute: load, bell, slices, memory."""
