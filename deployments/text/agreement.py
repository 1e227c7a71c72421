"""Which words two hearings of a growing sound agree on, and which words of a hearing come after those already given out.

LocalAgreement-2 (Macháček, Dabre and Bojar, "Turning Whisper into Real-Time Transcription System", 2023): the longest
common prefix of two hearings in a row is final. Words are those of `text/sentences.py:pieces`, compared without case and
punctuation.
"""

from __future__ import annotations

from collections.abc import Sequence

from deployments.text.sentences import pieces


def words_in(text: str) -> list[str]:
    """The words of a text, with their punctuation. In a script without spaces each letter is one."""
    return [word for word, _ in pieces(text)]


def plain(word: str) -> str:
    """A word without case and punctuation; a word of punctuation alone as it is."""
    return "".join(character for character in word.casefold() if character.isalnum()) or word


def agreed(before: Sequence[str], now: Sequence[str]) -> int:
    """How many words two hearings have in common at their start."""
    count = 0
    for one, other in zip(before, now, strict=False):
        if plain(one) != plain(other):
            break
        count += 1
    return count


def overlap(committed: Sequence[str], heard: Sequence[str]) -> tuple[int, int]:
    """How many committed words a hearing covers, and how many of its own words say them: the rest of the hearing is new.

    Both begin at the same moment, and either may end first. The hearing may have misheard, added or left out words: the
    alignment has the fewest such differences, and of equal ones it ends where both have the same word, and then as near as
    possible to the same number of words.
    """
    left, right = [plain(word) for word in committed], [plain(word) for word in heard]
    costs = _distances(left, right)
    ends = [(len(left), at) for at in range(len(right) + 1)] + [(at, len(right)) for at in range(len(left))]

    def worth(end: tuple[int, int]) -> tuple[int, bool, int]:
        at, to = end
        differs = not (at and to and left[at - 1] == right[to - 1])
        return costs[at][to], differs, abs(at - to)

    return min(ends, key=worth)


def _distances(left: Sequence[str], right: Sequence[str]) -> list[list[int]]:
    """The edit distance of every two beginnings."""
    rows = [list(range(len(right) + 1))]
    for at, word in enumerate(left, 1):
        above, row = rows[-1], [at]
        for to, other in enumerate(right, 1):
            row.append(min(above[to] + 1, row[-1] + 1, above[to - 1] + (word != other)))
        rows.append(row)
    return rows
