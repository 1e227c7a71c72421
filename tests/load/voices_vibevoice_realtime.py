"""VibeVoice-Realtime's steps at full size with random weights: captured beside plain, a batch beside single steps, and streams.

The sizes are those of the published 0.5B model; only its vocabulary's table is cut, of which a step reads a row. The end is
never likely, so all streams last as long. The step that is compared is a frame of audio; streams also read their text. The
quick run has the same parts with fewer layers: its ratios are not those of the model.

There is no target for a batch against single steps: on a CPU most of a frame's time is the codec's, whose widest layers have
3200 rows for one stream, so more streams do not make them cheaper.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from deployments.engines.graphs import CapturedStep, backend_for, on_device
from deployments.engines.lm.kernel_choice import KernelSetting, choosing_for
from deployments.engines.lm.linear import AnyPrecision
from deployments.engines.protocols import EngineSpec, SpeechRequest
from deployments.engines.vibevoice_realtime.config import MODEL_TYPE, VibeVoiceRealtimeConfig, config_of
from deployments.engines.vibevoice_realtime.engine import (
    VibeVoiceRealtimeEngine,
    VibeVoiceRealtimeOptions,
    networks_of,
)
from deployments.engines.vibevoice_realtime.networks import VibeVoiceRealtimeNetworks
from deployments.engines.vibevoice_realtime.text import PieceTokenizer
from deployments.engines.vibevoice_realtime.voices import FREE, LOWER, UPPER, PromptVoices
from deployments.text.sample_sentences import SENTENCES
from serve_app.bench.frame import Report, Sheet, carry_out
from tests.load.random_weights import LetterTokenizer, RandomWeights
from tests.load.shapes import Shapes, read
from tests.load.voices_soak import SOAK, soak
from tests.load.voices_steps import StepPlan, measure, wanted
from tests.load.voices_vibevoice import ARTICLE

ROWS = 300
POSITIONS = 384
VOICE_POSITIONS = (60, 183)
"""Of the lower and the upper decoder, in the published voice `en-Davis_man`."""


@dataclass(frozen=True, slots=True)
class RealtimePlan:
    """How much is measured, and of how large a model. `seconds` is how long each stream speaks; the steps of so many streams
    are `recorded`, each of which takes a compiler minutes at full size."""

    lower_layers: int
    upper_layers: int
    head_layers: int
    solver_steps: int
    filters: int
    ratios: tuple[int, ...]
    depths: str
    seconds: float
    rounds: int
    streams: tuple[int, ...]
    recorded: tuple[int, ...]
    shapes: str


QUICK = RealtimePlan(1, 4, 1, 3, 64, (80, 40), "1-1-1", 1.6, 8, (1, 8), (8,), "quick")
FULL = RealtimePlan(4, 20, 4, 5, 32, (8, 5, 5, 4, 2, 2), "3-3-3-3-3-3-8", 3.2, 5, (1, 8, 16, 32), (1, 8), "full")


def sizes(plan: RealtimePlan) -> dict[str, Any]:
    """A `config.json` of the 0.5B model, with the plan's layers."""
    return {
        "model_type": MODEL_TYPE,
        "acoustic_vae_dim": 64,
        "tts_backbone_num_hidden_layers": plan.upper_layers,
        "acoustic_tokenizer_config": {
            "vae_dim": 64,
            "encoder_n_filters": plan.filters,
            "decoder_n_filters": plan.filters,
            "encoder_ratios": list(plan.ratios),
            "encoder_depths": plan.depths,
            "layernorm_eps": 1e-5,
        },
        "decoder_config": {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": plan.lower_layers + plan.upper_layers,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "vocab_size": ROWS,
        },
        "diffusion_head_config": {
            "hidden_size": 896,
            "latent_size": 64,
            "speech_vae_dim": 64,
            "head_layers": plan.head_layers,
            "head_ffn_ratio": 3.0,
            "rms_norm_eps": 1e-5,
            "ddpm_num_steps": 1000,
            "ddpm_num_inference_steps": 20,
            "ddpm_beta_schedule": "cosine",
            "prediction_type": "v_prediction",
        },
    }


def package_shapes(values: Mapping[str, Any]) -> Shapes:
    """Every tensor of such a model, by Microsoft's names and in PyTorch's layout, as the package `mlx-audio` has it."""
    from mlx.utils import tree_flatten
    from mlx_audio.tts.models.vibevoice.config import ModelConfig
    from mlx_audio.tts.models.vibevoice.vibevoice import Model

    model = Model(ModelConfig.from_dict(dict(values)))
    shapes = {_published(name): _torch_shape(name, array.shape) for name, array in tree_flatten(model.parameters())}
    del shapes["model.tts_language_model.embed_tokens.weight"]  # nothing reads it
    return shapes


def _published(name: str) -> str:
    name = name.replace(".mlp.layers.", ".mlp.").replace(".adaLN_modulation.layers.", ".adaLN_modulation.")
    return name if name.startswith("tts_eos_classifier.") else f"model.{name}"


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """MLX has the channels last."""
    if len(shape) != 3:
        return shape
    outputs, taps, inputs = shape
    return (inputs, outputs, taps) if "convtr" in name else (outputs, inputs, taps)


def write_voice(
    file: Path, config: VibeVoiceRealtimeConfig, positions: tuple[int, int] = VOICE_POSITIONS, seed: int = 0
) -> None:
    """A voice of random numbers, with so many positions of the lower and the upper decoder."""
    random = torch.Generator(device="cpu").manual_seed(seed)
    lower, upper = positions
    tensors: dict[str, Tensor] = {}
    for name, shape, count in (
        (LOWER, config.lower, lower),
        (UPPER, config.upper, upper),
        (FREE, config.upper, 1),
    ):
        tensors[f"{name}_hidden"] = torch.randn(1, count, shape.dim, generator=random, device="cpu")
        for layer in range(shape.layers):
            for kind in ("key", "value"):
                sizes = (1, shape.kv_heads, count, shape.head_dim)
                tensors[f"{name}_{kind}_{layer}"] = torch.randn(*sizes, generator=random, device="cpu")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


def never_ending(networks: VibeVoiceRealtimeNetworks) -> None:
    """Changes the classifier of ends: no frame is the last one."""
    networks.end.second.get_parameter("bias").fill_(-1e6)


class VibeVoiceRealtimeContest:
    """Our engine at the plan's size; a stream ends when its time is over."""

    length = POSITIONS

    def __init__(
        self,
        folder: Path,
        plan: RealtimePlan,
        precision: AnyPrecision,
        device: str,
        shapes: Shapes | None = None,
        kernels: KernelSetting = "measured",
    ) -> None:
        """`shapes` are those of another model than the published one."""
        config = config_of(sizes(plan))
        frames = int(plan.seconds * config.frame_rate)
        options = VibeVoiceRealtimeOptions(
            precision=precision,
            chunk_frames=1,
            longest_prompt=POSITIONS - frames,
            most_seconds=plan.seconds,
            solver_steps=plan.solver_steps,
            kernels=kernels,
        )
        spec = EngineSpec("vibevoice_realtime", str(folder), device, torch.get_num_threads())
        weights = RandomWeights(shapes or read("vibevoice_realtime")[plan.shapes], device=device)
        with on_device(device), choosing_for(spec, options) as self.choice:
            networks = networks_of(weights, config, options)
        never_ending(networks)
        write_voice(folder / "voices" / "bench.safetensors", config)
        voices = PromptVoices(folder, config, most=1, device=device)
        tokenizer = PieceTokenizer(LetterTokenizer())
        self.engine = VibeVoiceRealtimeEngine(networks, tokenizer, voices, options, device)
        self.device = device

    @property
    def step(self) -> CapturedStep:
        """A frame of diffusion head, codec and upper decoder."""
        return self.engine.frame_step

    def record_windows(self, batches: Sequence[int]) -> None:
        """Captures the windows of text of so many streams. On a CPU they stay plain: compiling takes minutes, and they are a
        small part of the time."""
        step = self.engine.window_step
        step.batches, step.lengths, step.backend = list(batches), [POSITIONS], backend_for(self.device)
        step.capture_all()

    def request(self, number: int) -> SpeechRequest:
        """One piece of text."""
        return SpeechRequest((SENTENCES[number % len(SENTENCES)][:100],), "bench", seed=number)

    def inputs(self, streams: int) -> dict[str, Tensor]:
        """Of one step, in the middle of a text."""
        config = self.engine.config
        random = torch.Generator(device="cpu").manual_seed(streams)
        with on_device(self.device):
            return {
                "hidden": torch.randn(streams, 2, config.upper.dim, generator=random, device="cpu").to(self.device),
                "positions": torch.full((streams,), 240),
                "free_positions": torch.full((streams,), 30),
                "noise": torch.randn(streams, config.head.latent, generator=random, device="cpu").to(self.device),
                "state": torch.zeros(streams, self.engine.networks.decoder.state_size),
            }

    def difference(self, plain: Tensor, recorded: Tensor) -> float:
        """Root mean square of the samples' difference, as a share of their level, in percent."""
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
    steps = step_plan(plan, streams, captured)

    def carry(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            contest = VibeVoiceRealtimeContest(Path(folder), plan, precision, device)
            if soak_minutes:
                soak(sheet, contest, soak_minutes)
            else:
                layers = f"{plan.lower_layers} and {plan.upper_layers} layers, {precision}"
                sheet.put("building the model", time.perf_counter() - started, layers)
                if captured and device != "cpu":
                    contest.record_windows(steps.recorded)
                measure(sheet, contest, steps)

    return carry_out("voices of vibevoice-realtime", SOAK if soak_minutes else wanted(steps), carry, quick=quick)


def step_plan(plan: RealtimePlan, asked: tuple[int, ...] | None, captured: bool) -> StepPlan:
    """Steps of 1, of 8 and of every number of streams; recorded are the plan's, and every batch that was `asked` for."""
    streams = asked or plan.streams
    recorded = sorted({*plan.recorded, *(count for count in asked or () if count > 1)}) if captured else ()
    return StepPlan(
        rounds=plan.rounds,
        steps=tuple(sorted({1, 8, *streams})),
        recorded=tuple(recorded),
        streams=streams,
        notes=ARTICLE,
    )
