"""OpenAI-compatible routes, schemas, streaming, errors. Needs neither torch nor Ray."""
