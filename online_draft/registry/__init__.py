"""Drafter versions: artifacts, the decision journal, and the promotion ladder as pure transitions."""
