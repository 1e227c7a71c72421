"""Which replicas of a deployment get requests first: those that were there first, then spare ones, then silent ones.

The routers of a process share one `ReplicaPreference`, because each handle of a deployment has a router of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable


class ReplicaPreference:
    """The replicas that routers of this process know, by id, in the order in which they came."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._came: dict[str, int] = {}
        self._silent: set[str] = set()

    def note_change(self, present: Iterable[str], gone: Iterable[str]) -> None:
        """The replicas of one deployment now, and those that it had before. Routers of several processes that begin together
        prefer the same ones."""
        for replica in sorted(present):
            if replica not in self._came:
                self._came[replica] = next(self._numbers)
        for replica in gone:
            self._came.pop(replica, None)
            self._silent.discard(replica)

    def note_silence(self, replica: str) -> None:
        """A replica does not answer, and others of its deployment do."""
        self._silent.add(replica)

    def note_answer(self, replica: str) -> None:
        """It answers, or is gone."""
        self._silent.discard(replica)

    def ranked(self, replicas: Collection[str], spare: int) -> list[list[str]]:
        """The replicas in groups: each group is used only if no replica of an earlier one takes the request. The last `spare`
        ones that answer are a group of their own. A replica that was not noted yet counts as the newest."""
        came = sorted(replicas, key=lambda replica: self._came.get(replica, math.inf))
        answering = [replica for replica in came if replica not in self._silent]
        working = max(1, len(answering) - spare)
        silent = [replica for replica in came if replica in self._silent]
        return [group for group in (answering[:working], answering[working:], silent) if group]


PREFERENCE = ReplicaPreference()
"""That of this process."""
