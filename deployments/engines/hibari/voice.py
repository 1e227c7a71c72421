"""One voice of hibari, which also says when it speaks each phoneme.

The network gives every phoneme a duration, in frames of 25 ms, and uses it inside only. Here the durations are one more of
its outputs; the sound stays the same, to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from hibari import Hibari
from hibari.dsp import synth
from hibari.g2p import G2P, normalize
from hibari.tts import MAX_PHONEMES
from hibari.voices import VOICES

from deployments.engines.protocols import Samples
from deployments.engines.speech import SILENCE, cut_at_spaces
from deployments.engines.word_durations import PhonemeLine, PhonemeText, cut_line, text_of_tokens
from deployments.text.english import readable

FRAME_S = 0.025
DURATIONS = b"/Clip_output_0"
"""The tensor of hibari 0.2.1's network with the frames of each phoneme, (phonemes,)."""
LAG_S = 0.065
"""The durations place each phoneme this much later than it sounds: where the network's pitch says that the voice sounds, and
where voiced phonemes lie, agree best with this shift (a test measures it)."""
_CLAUSE = re.compile(r"(?<=[,;:—])\s+")


class TimedVoice:
    """A voice from an ONNX file. Several threads may speak with it at once."""

    def __init__(self, name: str, path: Path) -> None:
        self._british = bool(VOICES[name]["british"])
        self._voice = Hibari(voice=name, model=str(path), threads=1)
        self._reader: G2P = self._voice.g2p  # loads the lexicon now rather than in the first request
        network = path.read_bytes()
        self.knows_durations = DURATIONS in network
        self._voice.sess = _session(with_output(network, DURATIONS) if self.knows_durations else network)

    def read(self, text: str) -> PhonemeText:
        """The phonemes of a piece, in lines that the network takes. The package cuts long sentences at clauses; a sentence
        without clauses, such as a long number, is cut between words here, because time and memory grow with the longest
        line."""
        sentences = self._voice.split_sentences(readable(text, british=self._british))
        reader = self._reader
        read = text_of_tokens(reader.phonemize_tokens(reader.tokenize(normalize(each))) for each in sentences)
        lines = tuple(part for line in read.lines for part in _cut(line))
        return PhonemeText(lines, read.words if self.knows_durations else ())

    def speak(self, phonemes: str, speed: float, noise: np.random.Generator) -> tuple[Samples, list[float]]:
        """The samples (n,) of a line, and where each of its phonemes ends, in seconds, after where the first one starts."""
        said = [phoneme in self._voice.vocab for phoneme in phonemes]
        if not any(said):
            return SILENCE, [0.0] * (len(said) + 1)
        ids = np.asarray([self._voice.ids(phonemes)], np.int64)
        outputs = self._voice.sess.run(None, {"ids": ids, "speed": np.asarray([speed], np.float32)})
        spectrum, durations = outputs[:6], outputs[6] if self.knows_durations else np.zeros(len(ids[0]), np.float32)
        frames = np.zeros(len(said) + 1)
        frames[0] = durations[0]  # the first and the last one are of padding
        frames[1:][said] = durations[1:-1]
        samples: Samples = synth(*(output[0] for output in spectrum), noise)
        return samples, (np.cumsum(frames) * FRAME_S - LAG_S).tolist()


def _cut(line: PhonemeLine) -> Iterator[PhonemeLine]:
    """The line in parts of at most `MAX_PHONEMES`: clauses as the package joins them, or else words."""
    clauses = [""]
    for clause in _CLAUSE.split(line.phonemes) if len(line.phonemes) > MAX_PHONEMES else [line.phonemes]:
        if clauses[-1] and len(clauses[-1]) + len(clause) + 1 > MAX_PHONEMES:
            clauses.append(clause)
        else:
            clauses[-1] = f"{clauses[-1]} {clause}" if clauses[-1] else clause
    return cut_line(line, [part for clause in clauses for part in cut_at_spaces(clause, MAX_PHONEMES)])


def with_output(network: bytes, tensor: bytes) -> bytes:
    """An ONNX network with one more output. A protobuf message that is written twice is merged, and repeated fields are
    joined (https://protobuf.dev/programming-guides/encoding/#last-one-wins): the output is appended as a second graph."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128  # longer ones have a length of several bytes
        return bytes([number << 3 | 2, len(content)]) + content

    graph, output, name = 7, 12, 1  # ModelProto.graph, GraphProto.output, ValueInfoProto.name
    return network + field(graph, field(output, field(name, tensor)))


def _session(network: bytes) -> onnxruntime.InferenceSession:
    """A session that returns its memory to the allocator. ONNX Runtime's arena would keep what the longest sentence needed,
    and its memory patterns one plan for each length; the speed without them is the same."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
