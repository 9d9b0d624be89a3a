"""Where state lives: Redis (keys, client) and the artifact file system. Holds no decisions."""

from online_draft.store.artifacts import ArtifactStore
from online_draft.store.connection import connect_redis, redis_errors
from online_draft.store.keys import RedisKeys

__all__ = ["ArtifactStore", "RedisKeys", "connect_redis", "redis_errors"]
