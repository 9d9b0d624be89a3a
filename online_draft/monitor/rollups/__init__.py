"""Counts over time, from seconds to hours, summed over replicas when they are read."""
