"""The families of models, by the `model_type` of a checkpoint's `config.json`. A new family is a line here and an adapter."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from deployments.engines.hf_recognition.adapter import FamilyAdapter, HfRecognitionOptions
from deployments.errors import MotetError, fail

HERE = "deployments.engines.hf_recognition"


@dataclass(frozen=True, slots=True)
class Family:
    """The class of a family's model, that of its processor, and its adapter, each as `module:class`."""

    model: str
    processor: str
    adapter: str


FAMILIES: Mapping[str, Family] = {
    "canary": Family(
        "transformers:CanaryForConditionalGeneration", "transformers:CanaryProcessor", f"{HERE}.canary:Canary"
    ),
    "moonshine": Family(
        "transformers:MoonshineForConditionalGeneration",
        "transformers:Wav2Vec2Processor",
        f"{HERE}.moonshine:Moonshine",
    ),
    "moonshine_streaming": Family(
        "transformers:MoonshineStreamingForConditionalGeneration",
        "transformers:MoonshineStreamingProcessor",
        f"{HERE}.moonshine_streaming:MoonshineStreaming",
    ),
    "nemotron3_5_asr": Family(
        "transformers:Nemotron3_5AsrForRNNT",
        "transformers:Nemotron3_5AsrProcessor",
        f"{HERE}.nemotron:LanguageNemotron",
    ),
    "nemotron_asr_streaming": Family(
        "transformers:NemotronAsrStreamingForRNNT",
        "transformers:NemotronAsrStreamingProcessor",
        f"{HERE}.nemotron:Nemotron",
    ),
    "parakeet_ctc": Family("transformers:ParakeetForCTC", "transformers:ParakeetProcessor", f"{HERE}.ctc:Ctc"),
    "parakeet_rnnt": Family(
        "transformers:ParakeetForRNNT", "transformers:ParakeetProcessor", f"{HERE}.transducer:Transducer"
    ),
    "parakeet_tdt": Family(
        "transformers:ParakeetForTDT", "transformers:ParakeetProcessor", f"{HERE}.transducer:Transducer"
    ),
    "qwen3_asr": Family(
        "transformers:Qwen3ASRForConditionalGeneration",
        "transformers:Qwen3ASRProcessor",
        f"{HERE}.qwen3_asr:Qwen3Asr",
    ),
    "voxtral": Family(
        "transformers:VoxtralForConditionalGeneration",
        f"{HERE}.voxtral:VoxtralProcessor",
        f"{HERE}.voxtral:Voxtral",
    ),
    "voxtral_realtime": Family(
        "transformers:VoxtralRealtimeForConditionalGeneration",
        f"{HERE}.voxtral_realtime:VoxtralRealtimeProcessor",
        f"{HERE}.voxtral_realtime:VoxtralRealtime",
    ),
}


def family_of(folder: Path) -> Family:
    """The family of the checkpoint in a folder. Raises `MotetError` (unsupported) for any other model."""
    config = json.loads((folder / "config.json").read_text())
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    family = FAMILIES.get(kind)
    # One `model_type` may have several classes: Qwen3's forced aligner is a `qwen3_asr` too.
    if family is None or (architectures and family.model.partition(":")[2] not in architectures):
        described = f"{kind!r} ({', '.join(architectures)})" if architectures else f"{kind!r}"
        raise fail(
            "unsupported",
            f"The checkpoint in {folder} has the model type {described}, which this engine does not run.",
            f"Its model types: {', '.join(sorted(FAMILIES))}.",
            param="source",
        )
    return family


def load_adapter(folder: Path, device: str, options: HfRecognitionOptions) -> FamilyAdapter:
    """Loads the checkpoint in a folder on a device. Reads safetensors and JSON files only, and nothing from a network.

    Raises `MotetError`: unsupported for another model, unavailable for missing or unreadable files.
    """
    if not (folder / "config.json").is_file():
        raise fail("unavailable", f"{folder} has no config.json.", "Check the model's source.", param="source")
    family = family_of(folder)
    model_class, processor_class, adapter_class = map(_named, (family.model, family.processor, family.adapter))
    transformers.logging.disable_progress_bar()  # a bar for each load, in the log of a service
    try:
        processor = processor_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, loading = model_class.from_pretrained(
            folder,
            dtype=_dtype(options, device),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise _unreadable(folder, str(error)) from error
    if missing := loading["missing_keys"]:  # transformers would leave these random
        raise _unreadable(folder, f"{len(missing)} weights are missing, such as {min(missing)}")
    adapter: FamilyAdapter = adapter_class(model.to(device).eval(), processor, options)
    return adapter


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _dtype(options: HfRecognitionOptions, device: str) -> torch.dtype:
    automatic = "float32" if device == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, automatic if options.dtype == "auto" else options.dtype)
    return dtype


def _unreadable(folder: Path, reason: str) -> MotetError:
    return fail(
        "unavailable",
        f"The checkpoint in {folder} cannot be loaded: {reason}.",
        "It needs config.json, the weights as safetensors, and the files of its tokenizer and of its feature extractor.",
        param="source",
    )
