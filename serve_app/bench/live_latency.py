"""How far text is behind the speech: arithmetic on the events of a session and the known times of its words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from deployments.engines.protocols import SpokenWord
from serve_app.bench.live_client import COMPLETED, DELTA, STARTED, STOPPED, TENTATIVE, ServerEvent

Snapshot = tuple[float, str]
"""The text that a client shows from a time on."""


@dataclass(slots=True)
class ShownText:
    """The text of a session as a client shows it, item by item."""

    committed: dict[str, str] = field(default_factory=dict)
    tentative: dict[str, str] = field(default_factory=dict)

    def take(self, event: ServerEvent) -> None:
        """Applies an event."""
        item = str(event.facts.get("item_id", ""))
        if event.type == STARTED:  # items are in the order in which they are spoken
            self.committed.setdefault(item, "")
        elif event.type == DELTA:
            self.committed[item] = self.committed.get(item, "") + event.facts["delta"]
        elif event.type == TENTATIVE:
            self.committed.setdefault(item, "")
            self.tentative[item] = event.facts["tentative"]
        elif event.type == COMPLETED:
            self.committed[item] = event.facts["transcript"]
            self.tentative.pop(item, None)

    def text(self, *, tentative: bool) -> str:
        """The whole text, with or without what may still change."""
        return " ".join(
            text + (self.tentative.get(item, "") if tentative else "") for item, text in self.committed.items()
        )


def snapshots(events: Iterable[ServerEvent], *, tentative: bool) -> Iterator[Snapshot]:
    """The text after each event that changes it."""
    shown, before = ShownText(), ""
    for event in events:
        shown.take(event)
        if (text := shown.text(tentative=tentative)) != before:
            yield event.at_s, text
            before = text


def behind_speech(words: Sequence[SpokenWord], shown: Iterable[Snapshot]) -> list[float]:
    """For each word that was shown: the seconds from its end to the first text that contains it.

    Texts are aligned with all words that are said, and a word that has not begun yet is not seen. Words that are never
    recognized have no time; the word error rate counts them.
    """
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2([_plain(word.text) for word in words])
    seen = dict[int, float]()
    for at_s, text in shown:
        matcher.set_seq1([_plain(word) for word in text.split()])
        for block in matcher.get_matching_blocks():
            for said in range(block.b, block.b + block.size):
                if words[said].start <= at_s:
                    seen.setdefault(said, at_s - words[said].end)
    return [seen[said] for said in sorted(seen)]


def behind_turns(words: Sequence[SpokenWord], events: Sequence[ServerEvent]) -> tuple[list[float], int]:
    """For each turn with speech: the seconds from the end of its last word to its final text. Then how many had none.

    A turn is where the service says, but its last word is the one that was said: a service that says too late when a turn
    ended is not faster for that.
    """
    starts, ends = _positions(events, STARTED, "audio_start_ms"), _positions(events, STOPPED, "audio_end_ms")
    finals = {str(event.facts["item_id"]): event.at_s for event in events if event.type == COMPLETED}
    behind, missing = list[float](), 0
    for item, end in ends.items():
        begin = starts.get(item, 0.0)
        said = [word for word in words if begin <= (word.start + word.end) / 2 <= end]
        if said and item in finals:
            behind.append(finals[item] - max(word.end for word in said))
        elif said:
            missing += 1
    return behind, missing


def final_text(events: Sequence[ServerEvent]) -> str:
    """The whole text of a session when it ended; of turns without a final text, what was committed."""
    shown = ShownText()
    for event in events:
        shown.take(event)
    return shown.text(tentative=False)


def _positions(events: Iterable[ServerEvent], kind: str, name: str) -> Mapping[str, float]:
    return {str(event.facts["item_id"]): event.facts[name] / 1000 for event in events if event.type == kind}


def _plain(word: str) -> str:
    return re.sub(r"\W", "", word.casefold())
