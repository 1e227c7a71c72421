"""Cuts written texts: Markdown is read as text first."""

from __future__ import annotations

from deployments.settings import PieceSettings
from deployments.text.normalization.markdown import MarkdownReader
from deployments.text.normalization.rules import ReadingRules
from deployments.text.segmentation import Cutter


class WrittenTextCutter(Cutter):
    """A `Cutter` of a text in which Markdown and lines are read by the `rules`."""

    def __init__(self, settings: PieceSettings, rules: ReadingRules) -> None:
        super().__init__(settings)
        self._reader = MarkdownReader(rules)

    def write(self, text: str) -> None:
        """Appends to the text."""
        super().write(self._reader.write(text))

    def flush(self) -> None:
        """Settles all of the text so far."""
        super().write(self._reader.finish())
        super().flush()

    def flush_words(self) -> None:
        """Settles the text so far, except for a word or a number at its end that may go on."""
        super().write(self._reader.finish())
        super().flush_words()


def cut_written_text(text: str, settings: PieceSettings, rules: ReadingRules) -> tuple[str, ...]:
    """The pieces of a whole text, as `cut_into_pieces` cuts them."""
    cutter = WrittenTextCutter(settings, rules)
    cutter.write(text)
    cutter.flush()
    return tuple(cutter.settled())
