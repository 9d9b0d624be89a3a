"""What answers requests: the engine's thread, the replica, the OpenAI-compatible API, the admin API."""
