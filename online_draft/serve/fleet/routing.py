"""A Ray Serve request router that lets a caller say which replica is meant.

A call with the keyword `to`, a replica's name, goes to that replica, also while it drains; if it is gone,
to any, which knows its own name. Calls without it go to the replica with the shortest queue, but to none of
those that they name in `avoid` while others run. The router tells `members.MEMBERS` which replicas there are.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class DirectedRouter(RequestRouter):
    """See above. Ray Serve copies this class by value: whatever is shared must be imported inside."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replica that is meant, or all that run."""
        from online_draft.serve.fleet.members import MEMBERS

        wanted: Any = None
        if pending_request is not None:
            wanted = pending_request.kwargs.get("to")
            pending_request.routing_context.should_backoff = True
        if wanted is not None:
            meant = [replica for replica in candidate_replicas if replica.replica_id.unique_id == wanted]
            if meant:
                return [meant]
        running = MEMBERS.running(self._name)
        if pending_request is not None:
            running = running.difference(pending_request.kwargs.get("avoid", ())) or running
        return [[replica for replica in candidate_replicas if replica.replica_id.unique_id in running]]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """What the controller says, and those that drain while they are still talked to."""
        from online_draft.serve.fleet.members import MEMBERS

        named = {replica.replica_id.unique_id for replica in replicas}
        used = MEMBERS.in_use(self._name) - named
        draining = [known for known in self._replicas_list if known.replica_id.unique_id in used]
        super().update_replicas(replicas + draining)
        MEMBERS.set(self._name, named)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget it before the controller says so."""
        from online_draft.serve.fleet.members import MEMBERS

        super().on_replica_actor_died(replica_id)
        MEMBERS.remove(self._name, replica_id.unique_id)

    @property
    def _name(self) -> str:
        from online_draft.serve.fleet.members import deployment_key

        return deployment_key(self.app_name, self._deployment_id.name)
