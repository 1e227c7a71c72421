"""VibeVoice's step at full size with random weights: captured beside plain, a batch beside single steps, and streams.

The sizes are those of the published 1.5B model; only its vocabulary's table is cut, of which a step reads a row. Every frame
is made to be a sound, so all streams last as long. The quick run has the same parts with fewer layers: its ratios are not
those of the model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deployments.audio.test_tone import hum
from deployments.engines.graphs import CapturedStep, on_device
from deployments.engines.lm.kernel_choice import KernelSetting, choosing_for
from deployments.engines.lm.linear import AnyPrecision
from deployments.engines.protocols import EngineSpec, SpeechRequest, VoiceReference
from deployments.engines.vibevoice.config import VibeVoiceConfig, config_of
from deployments.engines.vibevoice.engine import VibeVoiceEngine, VibeVoiceOptions, networks_of
from deployments.engines.vibevoice.text import ScriptPrompts
from deployments.text.sample_sentences import SENTENCES
from serve_app.bench.frame import Report, Sheet, at_least, carry_out
from tests.load.random_weights import LetterTokenizer, RandomWeights
from tests.load.shapes import Shapes, read
from tests.load.voices_soak import SOAK, soak
from tests.load.voices_steps import StepPlan, measure, wanted

ROWS = 300
AUDIO, BEGIN, END, STOP = 290, 291, 292, 293
POSITIONS = 256
ARTICLE = {
    "32 streams, ended a second": "the article, one 24 GB card: 18.7 plain, 22.8 recorded",
    "1 streams, first audio p95": "the article: 320 ms plain, 310 ms recorded (latency of one)",
    "32 streams, first audio p95": "the article: 420 ms plain, 380 ms recorded (the service's response)",
    "memory": "the article: recorded steps take 4 % less",
}
"""What "CUDA Graphs for streaming TTS" reports of VibeVoice; printed beside ours, whatever this machine is."""


@dataclass(frozen=True, slots=True)
class VibeVoicesPlan:
    """How much is measured, and of how large a model. `seconds` is how long each stream speaks; the steps of so many streams
    are `recorded`, each of which takes a compiler minutes at full size."""

    layers: int
    head_layers: int
    solver_steps: int
    filters: int
    ratios: tuple[int, ...]
    depths: tuple[int, ...]
    seconds: float
    rounds: int
    streams: tuple[int, ...]
    recorded: tuple[int, ...]
    shapes: str


QUICK = VibeVoicesPlan(4, 1, 3, 64, (40, 80), (1, 1, 1), 0.8, 8, (1, 8), (8,), "quick")
FULL = VibeVoicesPlan(28, 4, 10, 32, (2, 2, 4, 5, 5, 8), (3, 3, 3, 3, 3, 3, 8), 2.0, 5, (1, 8), (1, 8), "full")


def sizes(plan: VibeVoicesPlan) -> dict[str, Any]:
    """A `config.json` of the 1.5B model, with the plan's layers."""
    codec = {
        "num_filters": plan.filters,
        "kernel_size": 7,
        "downsampling_ratios": list(plan.ratios),
        "depths": list(plan.depths),
        "rms_norm_eps": 1e-5,
    }
    return {
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": plan.layers,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "vocab_size": ROWS,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        "audio_config": {"model_type": "vibevoice_acoustic_tokenizer", "hidden_size": 64, **codec},
        "semantic_model_config": {"model_type": "vibevoice_acoustic_tokenizer_encoder", "hidden_size": 128, **codec},
        "diffusion_head_config": {
            "hidden_size": 1536,
            "latent_size": 64,
            "num_hidden_layers": plan.head_layers,
            "intermediate_size": 4608,
            "rms_norm_eps": 1e-5,
            "frequency_embedding_size": 256,
            "diffusion_max_period": 10_000,
        },
        "audio_token_id": AUDIO,
        "audio_bos_token_id": BEGIN,
        "audio_eos_token_id": END,
        "eos_token_id": STOP,
    }


def package_shapes(values: Mapping[str, Any]) -> Shapes:
    """Every tensor of such a model, by its name in the Hugging Face layout, as the package `transformers` has it."""
    from transformers import VibeVoiceConfig as TheirConfig
    from transformers import VibeVoiceForConditionalGeneration

    with torch.device("meta"):
        model = VibeVoiceForConditionalGeneration(TheirConfig(**values))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class VibeVoiceContest:
    """Our engine at the plan's size; every frame is a sound."""

    length = POSITIONS

    def __init__(
        self,
        folder: Path,
        plan: VibeVoicesPlan,
        precision: AnyPrecision,
        device: str,
        shapes: Shapes | None = None,
        kernels: KernelSetting = "measured",
    ) -> None:
        """`shapes` are those of another model than the published one."""
        values = sizes(plan)
        config = config_of(values, {"guidance_scale": 1.3}, {})
        frames = int(plan.seconds * config.frame_rate)
        options = VibeVoiceOptions(
            precision=precision,
            chunk_frames=1,
            longest_prompt=POSITIONS - frames,
            most_seconds=plan.seconds,
            solver_steps=plan.solver_steps,
            kernels=kernels,
        )
        spec = EngineSpec("vibevoice", str(folder), device, torch.get_num_threads())
        weights = RandomWeights(shapes or read("vibevoice")[plan.shapes], device=device)
        with on_device(device), choosing_for(spec, options) as self.choice:
            networks = networks_of(weights, config, options)
        networks.ends.zero_()  # nothing is likelier than the first choice, which is a sound
        self.engine = VibeVoiceEngine(networks, ScriptPrompts(LetterTokenizer(), config), folder, options, device)
        self.device = device
        self._clip = VoiceReference("bench", hum(24_000, 5.0), 24_000)

    @property
    def step(self) -> CapturedStep:
        """A frame of language model, diffusion head and codecs."""
        return self.engine.captured

    def request(self, number: int) -> SpeechRequest:
        """One piece of text, spoken like the clip."""
        text = SENTENCES[number % len(SENTENCES)][:100]
        return SpeechRequest((text,), self._clip.id, seed=number, reference=self._clip)

    def inputs(self, streams: int) -> dict[str, Tensor]:
        """Of one step, in the middle of a text."""
        config: VibeVoiceConfig = self.engine.config
        random = torch.Generator(device="cpu").manual_seed(streams)
        with on_device(self.device):
            return {
                "embedding": torch.randn(streams, config.language.dim, generator=random, device="cpu").to(self.device),
                "positions": torch.full((streams,), 200),
                "free_positions": torch.full((streams,), 60),
                "noise": torch.randn(streams, config.head.latent, generator=random, device="cpu").to(self.device),
                "state": torch.zeros(streams, self.engine.networks.state_size),
            }

    def difference(self, plain: Tensor, recorded: Tensor) -> float:
        """Root mean square of the samples' difference, as a share of their level, in percent. Eight bits round a few the
        other way when sums are taken in another order."""
        before, after = (self.engine.networks.unpack(packed).samples for packed in (plain, recorded))
        return float(100 * (after - before).square().mean().sqrt() / before.square().mean().sqrt())


def run(
    quick: bool,
    soak_minutes: float = 0.0,
    streams: tuple[int, ...] | None = None,
    captured: bool = True,
    precision: AnyPrecision | None = None,
    device: str = "cpu",
) -> Report:
    """Measures the step and so many `streams`; with `soak_minutes`, only how memory grows under load for so long. The
    precision is the one that suits the device, unless it is given."""
    precision = precision or ("int8" if device == "cpu" else "bfloat16")
    plan = QUICK if quick else FULL
    steps = step_plan(plan, streams or plan.streams, captured)

    def carry(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            contest = VibeVoiceContest(Path(folder), plan, precision, device)
            if soak_minutes:
                soak(sheet, contest, soak_minutes)
            else:
                sheet.put("building the model", time.perf_counter() - started, f"{plan.layers} layers, {precision}")
                measure(sheet, contest, steps)

    return carry_out("voices of vibevoice", SOAK if soak_minutes else wanted(steps), carry, quick=quick)


def step_plan(plan: VibeVoicesPlan, streams: tuple[int, ...], captured: bool) -> StepPlan:
    """Steps of 1, of 8 and of every number of streams; recorded are the plan's, and every batch that was asked for."""
    recorded = sorted({*plan.recorded, *(count for count in streams if count > 1)}) if captured else ()
    return StepPlan(
        rounds=plan.rounds,
        steps=tuple(sorted({1, 8, *streams})),
        recorded=tuple(recorded),
        streams=streams,
        batch_gain=at_least(4) if plan is FULL else None,
        notes=ARTICLE,
    )
