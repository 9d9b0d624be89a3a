"""An LLM endpoint whose draft heads keep learning from the traffic it serves."""

__version__ = "0.1.0"
