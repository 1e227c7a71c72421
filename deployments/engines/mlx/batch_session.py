"""mlx-audio's batch sessions, with a seed for each stream and an error for each item.

A session advances all its pieces by one frame a step; pieces join and leave between steps. It gives a piece's audio when the
piece is complete, so if a step fails, nothing of an incomplete piece was given out and it can begin again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deployments.engines.mlx.runtime import mx

DRAWING = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens")
MOST_FRAMES = 1024
"""The default limit of a piece: 80 s at 12.5 frames a second, for a model that does not find its end."""


@dataclass(frozen=True, slots=True)
class SessionPiece:
    """A piece in a session; `again` is True after a session failed with it."""

    number: int
    text: str
    voice: str | None
    seed: int
    again: bool = False


class SeededSession:
    """A batch session of a model. Callers identify their streams by number."""

    def __init__(self, model: Any, batch_size: int, options: Mapping[str, object]) -> None:
        self._model = model
        self._options = session_options(model, batch_size, options)
        self._draws = RowSampler.on(model)
        self._session = self._new()
        self._pieces: dict[int, SessionPiece] = {}
        self._outcomes: dict[int, Any] = {}

    def _new(self) -> Any:
        return self._model.create_tts_batch_session(self._options)

    def __contains__(self, number: int) -> bool:
        return number in self._pieces or number in self._outcomes

    def __len__(self) -> int:
        """Pieces in the session."""
        return len(self._pieces)

    def insert(self, number: int, text: str, voice: str | None, seed: int) -> None:
        """Adds a piece, which joins at the next step."""
        self._insert(SessionPiece(number, text, voice, seed))

    def _insert(self, piece: SessionPiece) -> None:
        self._pieces[piece.number] = piece
        self._draws.join(piece.number, piece.seed)
        self._session.add([_item(piece)])

    def cancel(self, number: int) -> None:
        """Removes a piece, complete or not; safe to call twice."""
        if self._pieces.pop(number, None) is not None:
            self._session.cancel(number)
            self._draws.leave(number)
        self._outcomes.pop(number, None)

    def collect(self, number: int) -> Any:
        """The library's event of a complete piece, or its error; None while the piece is in the session."""
        return self._outcomes.pop(number, None)

    def advance(self, frames: int, waiting: Collection[int]) -> None:
        """Takes up to `frames` steps; stops when one of `waiting` is complete, so that its audio leaves at once."""
        for _ in range(frames):
            if any(number in self._outcomes for number in waiting):
                return
            try:
                events = self._session.step()
            except Exception as error:
                self._begin_again(error)
                return
            for event in events:
                self._take(event)

    def _take(self, event: Any) -> None:
        over = event.done or event.error is not None
        if over and event.sequence_id in self._pieces:
            self._end(event.sequence_id, event.error if event.error is not None else event)

    def _end(self, number: int, outcome: Any) -> None:
        del self._pieces[number]
        self._draws.leave(number)
        self._outcomes[number] = outcome

    def _begin_again(self, error: Exception) -> None:
        """After a step failed for all pieces, the session is lost. The pieces that can begin alone begin again together,
        once."""
        pieces = list(self._pieces.values())
        for piece in pieces:
            self._end(piece.number, error)
        for piece in pieces:
            self._outcomes[piece.number] = error if piece.again else self._refusal(piece)
        self._session = self._new()
        for piece in pieces:
            if self._outcomes[piece.number] is None:
                del self._outcomes[piece.number]
                self._insert(replace(piece, again=True))

    def _refusal(self, piece: SessionPiece) -> Exception | None:
        """The error of the piece when it begins alone, or None."""
        alone = self._new()
        self._draws.join(piece.number, piece.seed)
        try:
            alone.add([_item(piece)])
            alone.step()
            alone.step()
        except Exception as error:
            return error
        finally:
            self._draws.leave(piece.number)
        return None


def _item(piece: SessionPiece) -> Any:
    from mlx_audio.tts.continuous import TTSBatchItem

    return TTSBatchItem(sequence_id=piece.number, text=piece.text, voice=piece.voice)


def session_options(model: Any, batch_size: int, options: Mapping[str, object]) -> Any:
    """Each setting from the configuration, else from the checkpoint (`generation_config.json`), else the library's
    default."""
    from mlx_audio.tts.continuous import TTSBatchOptions

    own = dict(getattr(model, "generate_config", None) or {})
    own["max_tokens"] = own.get("max_new_tokens", MOST_FRAMES)
    chosen = {name: options.get(name, own.get(name)) for name in DRAWING}
    known = {name: value for name, value in chosen.items() if value is not None}
    language = str(options.get("language", "auto"))
    return TTSBatchOptions(max_batch_size=batch_size, lang_code=language, **known)


class RowSampler:
    """Samples each row of a batch from its own random state, so that its tokens do not depend on the other rows.

    mlx-audio's sessions draw for all rows at once from one global generator. If the model draws through a method of its own
    (`METHOD`), this class replaces the method and calls it row by row, each time with the row's own seed and count of draws.
    Other models draw from the global generator, so their audio repeats at temperature 0 only.

    Mapping of rows to streams: a session admits streams in the order of joining, and its rows keep that order. The first draw
    of a frame passes the tokens of each row so far; newly admitted rows have none.
    """

    METHOD = "_sample_token_batch"

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._waiting: list[int] = []
        self._rows: list[int] = []
        self._present: list[int] = []
        self._seeds: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    @classmethod
    def on(cls, model: Any) -> RowSampler:
        """Replaces the model's method for drawing, if it has one."""
        draw = getattr(model, cls.METHOD, None)
        draws = cls(draw)
        if draw is not None:
            setattr(model, cls.METHOD, draws)
        return draws

    def join(self, number: int, seed: int) -> None:
        """Registers a stream that waits to be admitted."""
        self._waiting.append(number)
        self._seeds[number], self._counts[number] = seed, 0

    def leave(self, number: int) -> None:
        """Removes a stream."""
        self._waiting = [other for other in self._waiting if other != number]
        self._rows = [other for other in self._rows if other != number]
        self._seeds.pop(number, None)
        self._counts.pop(number, None)

    def __call__(self, logits: Any, **options: Any) -> Any:
        """Replaces the model's method: `logits` (rows, steps, vocabulary) to tokens (rows, 1)."""
        said = options.pop("generated_tokens_per_seq", None)
        if said is not None:
            self._present = self._rows if all(said) else self._admitted(len(said))
        if options.get("temperature", 1.0) <= 0:
            return self._draw(logits, generated_tokens_per_seq=said, **options)
        return mx.concatenate(
            [
                self._row(number, logits[at : at + 1], None if said is None else [said[at]], options)
                for at, number in enumerate(self._present)
            ]
        )

    def _admitted(self, count: int) -> list[int]:
        admitted, self._waiting = self._waiting[:count], self._waiting[count:]
        self._rows = [*self._rows, *admitted]
        return admitted

    def _row(self, number: int, logits: Any, said: Any, options: Mapping[str, Any]) -> Any:
        mx.random.seed(self._seeds[number] * 1_000_003 + self._counts[number])
        self._counts[number] += 1
        return self._draw(logits, generated_tokens_per_seq=said, **options)
