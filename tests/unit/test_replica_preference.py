"""Which replicas of a deployment get requests first."""

from __future__ import annotations

from cluster.replica_preference import ReplicaPreference


def test_those_that_came_first_work_and_the_others_are_spare() -> None:
    preference = ReplicaPreference()
    preference.note_change(["b", "a"], [])
    assert preference.ranked(["b", "a"], spare=1) == [["a"], ["b"]]
    preference.note_change(["a", "b", "0"], [])
    assert preference.ranked(["0", "a", "b"], spare=1) == [["a", "b"], ["0"]]
    assert preference.ranked(["0", "a", "b"], spare=0) == [["a", "b", "0"]]


def test_the_spare_one_works_when_the_other_is_gone_and_its_successor_is_spare() -> None:
    preference = ReplicaPreference()
    preference.note_change(["a", "b"], [])
    preference.note_change(["b"], ["a"])
    assert preference.ranked(["b"], spare=1) == [["b"]]
    preference.note_change(["b", "a0"], [])
    assert preference.ranked(["a0", "b"], spare=1) == [["b"], ["a0"]]


def test_a_silent_replica_comes_last_until_it_answers() -> None:
    preference = ReplicaPreference()
    preference.note_change(["a", "b", "c"], [])
    preference.note_silence("a")
    assert preference.ranked(["a", "b", "c"], spare=1) == [["b"], ["c"], ["a"]]
    preference.note_answer("a")
    assert preference.ranked(["a", "b", "c"], spare=1) == [["a", "b"], ["c"]]


def test_all_silent_replicas_are_still_asked() -> None:
    preference = ReplicaPreference()
    preference.note_change(["a"], [])
    preference.note_silence("a")
    assert preference.ranked(["a"], spare=1) == [["a"]]


def test_replicas_that_are_gone_are_forgotten() -> None:
    preference = ReplicaPreference()
    preference.note_change(["a"], [])
    preference.note_silence("a")
    preference.note_change([], ["a"])
    assert not preference._came and not preference._silent


def test_a_replica_that_was_not_noted_yet_is_the_newest() -> None:
    preference = ReplicaPreference()
    preference.note_change(["a", "b"], [])
    assert preference.ranked(["new", "b", "a"], spare=1) == [["a", "b"], ["new"]]
