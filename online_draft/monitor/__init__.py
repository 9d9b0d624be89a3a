"""Speculation counts and replica load, summed over processes through Redis. Integers; readers divide."""
