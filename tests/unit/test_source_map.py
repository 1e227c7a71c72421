"""Every sample of a stream maps to its position in the speech, however it is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.speech.source_map import SourceMap, SourcePosition, SourceSpan

LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12)


@given(lengths=LENGTHS, steps=st.lists(st.integers(0, 9), max_size=20))
def test_every_sample_has_its_position(lengths: list[tuple[int, bool]], steps: list[int]) -> None:
    source_map, start, expected = SourceMap(), 0, list[SourcePosition]()
    for number, (length, concealed) in enumerate(lengths):
        span = SourceSpan(start, SourcePosition(number, 100), concealed)
        source_map.add(span)
        expected += [SourcePosition(number, 100 if concealed else 100 + offset) for offset in range(length)]
        start += length
    position, found = 0, list[SourcePosition]()
    for end in (min(start, sum(steps[: n + 1])) for n in range(len(steps))):
        passed = source_map.advance(end)
        assert [span.start for span in passed] == sorted({span.start for span in passed})
        assert not passed or passed[0].start == position
        for span, following in zip(passed, [*(s.start for s in passed), end][1:], strict=bool(passed)):
            found += [span.at(sample) for sample in range(span.start, following)]
        position = max(position, end)
        assert position == start or source_map.position == expected[position]
    assert found == expected[:position]


def test_behind_the_last_sample_the_speech_goes_on_where_it_ended() -> None:
    source_map = SourceMap()
    source_map.add(SourceSpan(0, SourcePosition(3, 0)))
    source_map.advance(50)
    assert source_map.position == SourcePosition(3, 50)
    source_map.add(SourceSpan(50, SourcePosition(3, 50), concealed=True))
    source_map.advance(90)
    assert source_map.position == SourcePosition(3, 50)
    source_map.add(SourceSpan(90, SourcePosition(4, 0, fallback_from=4)))
    source_map.advance(91)
    assert source_map.position == SourcePosition(4, 1, fallback_from=4)
