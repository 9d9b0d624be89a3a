"""Who may ask, for how much: API keys, rate limits, bounds. Needs neither torch nor Ray."""
