"""Tells people elsewhere of alarms and rollbacks, over HTTP."""
