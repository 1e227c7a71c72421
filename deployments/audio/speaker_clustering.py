"""Which stretches of speech have one speaker: clusters of embeddings, whose number need not be known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.audio.speaker_embedding import Embeddings, unit

Labels = NDArray[np.intp]
"""Cluster numbers (n,) from 0, without gaps."""

MOST_POINTS = 2000
"""Points that are clustered at once. Memory grows with its square: 16 MB for 2,000."""
NEIGHBOUR_SIMILARITY = 0.8
SPLIT_SIMILARITY = 0.6
"""Agglomeration stops where the mean similarity of two clusters falls below this. Of 1.6 s of speech, one voice has 0.74 and
different voices have 0.16 to 0.64."""
MERGE_SIMILARITY = 0.85
"""Clusters whose centroids are this similar are one voice."""
KNOWN_SIMILARITY = 0.75
"""A voice with at least this similarity to a known one is that speaker."""


def cluster(
    points: Embeddings,
    weights: NDArray[np.float32] | None = None,
    *,
    count: int | None = None,
    least: int = 1,
    most: int | None = None,
) -> Labels:
    """The cluster of each of `points` (n, 256): exactly `count` clusters, or a number from `least` to `most`.

    There are never more clusters than points. `weights` (n,) are the seconds of speech that a point describes.
    """
    weights = np.ones(len(points), np.float32) if weights is None else weights
    if len(points) == 0:
        return np.zeros(0, np.intp)
    if count is not None:
        least = most = count
    groups = _compressed(points, weights)
    sums = _sums(points * weights[:, None], groups)
    labels = _agglomerated(unit(sums), np.bincount(groups, weights).astype(np.float32), least, most)
    return _numbered(labels[groups])


def centroids(points: Embeddings, labels: Labels) -> Embeddings:
    """The unit mean of each cluster, (clusters, 256)."""
    return unit(_sums(points, labels))


def _sums(points: Embeddings, labels: Labels) -> Embeddings:
    sums = np.zeros((int(labels.max()) + 1, points.shape[1]), np.float32)
    np.add.at(sums, labels, points)
    return sums


def _compressed(points: Embeddings, weights: NDArray[np.float32]) -> Labels:
    """Groups of points for which one point stands, at most `MOST_POINTS`. Groups are made among points that follow each
    other, so that time and memory are linear in their number."""
    groups: Labels = np.arange(len(points))
    allowed = NEIGHBOUR_SIMILARITY
    while groups.max() >= MOST_POINTS:
        means = unit(_sums(points * weights[:, None], groups))
        merged = np.empty(len(means), np.intp)
        found = 0
        for first in range(0, len(means), MOST_POINTS):
            block = _at_similarity(means[first : first + MOST_POINTS], allowed)
            merged[first : first + MOST_POINTS] = block + found
            found += int(block.max()) + 1
        groups = merged[groups]
        allowed -= 0.05
    return groups


def _at_similarity(points: Embeddings, similarity: float) -> Labels:
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(points) == 1:
        return np.zeros(1, np.intp)
    tree = linkage(_distances(points), "average")
    labels: Labels = fcluster(tree, 1.0 - similarity, "distance").astype(np.intp) - 1
    return labels


def _distances(points: Embeddings) -> NDArray[np.float64]:
    """Cosine distances of every pair, in the condensed form of SciPy."""
    from scipy.spatial.distance import squareform

    square = 1.0 - (points @ points.T).astype(np.float64)
    np.fill_diagonal(square, 0.0)
    condensed: NDArray[np.float64] = squareform(np.maximum(square, 0.0), checks=False)
    return condensed


def _agglomerated(points: Embeddings, weights: NDArray[np.float32], least: int, most: int | None) -> Labels:
    from scipy.cluster.hierarchy import cut_tree, fcluster, linkage

    if len(points) == 1:
        return np.zeros(1, np.intp)
    tree = linkage(_distances(points), "average")
    labels: Labels = fcluster(tree, 1.0 - SPLIT_SIMILARITY, "distance").astype(np.intp) - 1
    least = min(least, len(points))
    if labels.max() + 1 < least:
        labels = cut_tree(tree, n_clusters=least)[:, 0].astype(np.intp)
    return _merged(points, weights, labels, least, most)


def _merged(points: Embeddings, weights: NDArray[np.float32], labels: Labels, least: int, most: int | None) -> Labels:
    """Joins the two most similar clusters while they are similar enough, or while there are more than `most`."""
    labels = _numbered(labels)
    sums = _sums(points * weights[:, None], labels)
    members: list[Sequence[int]] = [[number] for number in range(len(sums))]
    while len(sums) > least:
        similarity = unit(sums) @ unit(sums).T
        np.fill_diagonal(similarity, -2.0)
        at, other = sorted(np.unravel_index(int(similarity.argmax()), similarity.shape))
        if similarity[at, other] < MERGE_SIMILARITY and (most is None or len(sums) <= most):
            break
        sums[at] += sums[other]
        sums = np.delete(sums, other, axis=0)
        members[at] = [*members[at], *members.pop(other)]
    new = np.empty(int(labels.max()) + 1, np.intp)
    for number, olds in enumerate(members):
        new[list(olds)] = number
    return new[labels]


def _numbered(labels: Labels) -> Labels:
    """The same clusters, numbered in order of appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.intp)
    order[np.argsort(first)] = np.arange(len(first))
    return order[inverse]


def most_similar_speakers(voices: Embeddings, known: Embeddings) -> list[int | None]:
    """For each voice the number of the known voice that it resembles most, or None if it resembles none."""
    similarity = voices @ known.T
    return [int(row.argmax()) if row.max() >= KNOWN_SIMILARITY else None for row in similarity]
