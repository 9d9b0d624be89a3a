"""Has acceptance changed, since when, and why? Samples, detector, verdict."""
