"""The admin API: what an operator sees and decides. Needs neither torch nor Ray."""
