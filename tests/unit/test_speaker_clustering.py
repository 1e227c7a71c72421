"""Clusters of vectors around known centres."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.speaker_clustering import centroids, cluster, most_similar_speakers
from deployments.audio.speaker_embedding import Embeddings, unit


def voices(count: int, similarity: float = 0.3, seed: int = 0) -> Embeddings:
    """Unit vectors with the same similarity between any two."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((256, count + 1)))[0].T.astype(np.float32)
    centres: Embeddings = unit(np.sqrt(similarity) * basis[-1] + np.sqrt(1 - similarity) * basis[:count])
    return centres


def speech(centres: Embeddings, order: np.ndarray, spread: float = 0.58, seed: int = 1) -> Embeddings:
    """A point near the centre of each number. With 0.58 two points of one voice have a similarity of about 0.75."""
    noise = np.random.default_rng(seed).standard_normal((len(order), 256)).astype(np.float32) / 16
    return unit(centres[order] + spread * noise)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_number_of_voices_is_found(count: int) -> None:
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(count), 20))
    labels = cluster(speech(voices(count), order))
    assert same_clusters(labels, order)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_a_given_number_of_clusters_is_kept(count: int) -> None:
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(3), 20))
    labels = cluster(speech(voices(3), order), count=count)
    assert sorted(set(labels)) == list(range(count))


def test_the_number_is_bounded() -> None:
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(3), 20))
    points = speech(voices(3), order)
    assert [cluster(points, least=4).max() + 1, cluster(points, most=2).max() + 1] == [4, 2]
    assert same_clusters(cluster(points, least=2, most=5), order)


def test_a_rare_voice_is_found_beside_a_frequent_one() -> None:
    order = np.array([0] * 200 + [1] * 5 + [0] * 100)
    assert same_clusters(cluster(speech(voices(2), order)), order)


@pytest.mark.parametrize(
    ("points", "others", "found"), [(1, 12, 2), (1, 60, 1), (4, 60, 2), (5, 2000, 1), (12, 2000, 2)]
)
def test_a_voice_has_a_share_of_the_speech(points: int, others: int, found: int) -> None:
    order = np.array([0] * others + [1] * points)
    assert cluster(speech(voices(2), order)).max() + 1 == found


def test_clusters_are_numbered_in_order_of_appearance() -> None:
    order = np.array([2, 2, 0, 0, 1, 1, 2, 0])
    assert cluster(speech(voices(3), order, 0.2)).tolist() == [0, 0, 1, 1, 2, 2, 0, 1]


@given(st.integers(0, 6), st.integers(1, 8))
@settings(deadline=None)
def test_there_are_never_more_clusters_than_points(points: int, count: int) -> None:
    labels = cluster(speech(voices(3), np.arange(points) % 3), count=count)
    assert len(labels) == points
    assert len(set(labels)) == min(points, count)


def test_four_hours_take_bounded_memory() -> None:
    """18,000 points, one each 0.8 s, of six voices that take turns of 16 s."""
    order = np.repeat(np.random.default_rng(3).integers(0, 6, 900), 20)
    points = speech(voices(6), order)
    tracemalloc.start()
    labels = cluster(points)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert same_clusters(labels, order)
    assert peak < 100e6


def test_known_voices_are_matched_above_a_similarity() -> None:
    centres = voices(4)
    heard = unit(centres[[2, 0, 3]] + 0.1 * voices(3, seed=9))
    assert most_similar_speakers(heard, centres[:3]) == [2, 0, None]


def test_the_clearly_nearer_voice_is_the_known_one() -> None:
    """Two voices over the threshold: both are the known speaker only if their similarities differ little."""
    known = np.eye(1, 256, dtype=np.float32)
    voices_at = [[similar, (1 - similar**2) ** 0.5] + [0.0] * 254 for similar in (0.95, 0.9, 0.8)]
    assert most_similar_speakers(np.array(voices_at, np.float32), known) == [0, 0, None]
    assert most_similar_speakers(np.array(voices_at[2:], np.float32), known) == [0]


def test_the_centroid_of_a_cluster_is_its_unit_mean() -> None:
    points = unit(np.eye(4, 256, dtype=np.float32))
    found = centroids(points, np.array([0, 0, 1, 1]))
    assert np.allclose(found[0, :4], [0.5**0.5, 0.5**0.5, 0, 0])
    assert np.allclose(np.linalg.norm(found, axis=1), 1)


def same_clusters(labels: np.ndarray, order: np.ndarray) -> bool:
    pairs = set(zip(labels.tolist(), order.tolist(), strict=True))
    return len(pairs) == len(set(labels.tolist())) == len(set(order.tolist()))
