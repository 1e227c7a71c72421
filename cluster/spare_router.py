"""Ray Serve's router for deployments with several replicas: spare replicas get requests only if the others are full or gone.

Ray Serve sends the class as a copy to each process that calls such a deployment. What the copies share is in
`cluster.replica_preference`, which these processes import.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from cluster import replica_preference

ROUTER = "cluster.spare_router:SpareRouter"
CHOICES = 2
"""Replicas of a group whose queues are compared, as in Ray Serve's own router."""


class SpareRouter(FIFOMixin, RequestRouter):
    """Two replicas of each group (see `ReplicaPreference`), of which Ray Serve takes the one with less to do."""

    def initialize_state(self, spare: int = 0, **kwargs: Any) -> None:
        """Takes the number of spare replicas."""
        self._spare = spare

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Takes the replicas that run now."""
        present = {replica.replica_id.unique_id for replica in replicas}
        before = {known.unique_id for known in self.curr_replicas}
        replica_preference.PREFERENCE.note_change(present, before - present)
        super().update_replicas(replicas)

    async def choose_replicas(
        self, candidate_replicas: Sequence[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Two replicas of each group, in the order of preference."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # otherwise it would look again without a pause
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        groups = replica_preference.PREFERENCE.ranked(by_id, self._spare)
        return [[by_id[each] for each in random.sample(group, min(CHOICES, len(group)))] for group in groups]
