"""Tiny seeded checkpoints of the families of `hf_recognition`, each with a real processor and a small vocabulary."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CanaryConfig,
    CanaryForConditionalGeneration,
    CanaryProcessor,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
    MoonshineStreamingProcessor,
    Nemotron3_5AsrConfig,
    Nemotron3_5AsrForRNNT,
    Nemotron3_5AsrProcessor,
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingFeatureExtractor,
    NemotronAsrStreamingForRNNT,
    NemotronAsrStreamingProcessor,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetProcessor,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
    ParakeetTokenizer,
    PreTrainedTokenizerFast,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralRealtimeConfig,
    VoxtralRealtimeFeatureExtractor,
    VoxtralRealtimeForConditionalGeneration,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperFeatureExtractor,
)

SYLLABLES = ("▁the", "▁ri", "ver", "▁ro", "se", "▁qui", "ck", "ly", "▁af", "ter", "▁rain", "ing", "▁a", "s", ".", ",")
"""Pieces as SentencePiece makes them: a word begins with the mark."""
LONG = SYLLABLES[:-3]
"""Those that are no single byte."""
ENCODER: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "subsampling_conv_channels": 8, "num_mel_bins": 80, "conv_kernel_size": 5, "dropout": 0.0, "layerdrop": 0.0,
    "activation_dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
LANGUAGE_MODEL: Mapping[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 1024,
}  # fmt: skip


def pieces(*first: str, last: tuple[str, ...] = ()) -> Tokenizer:
    """A vocabulary of special tokens, syllables, and more special tokens. The first one stands for what is unknown."""
    words = [*first, *SYLLABLES, *last]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, [], unk_token=first[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*first, *last])
    return tokenizer


def spread(model: Any, seed: int, scale: float) -> Any:
    """Weights that give different tokens at different times: scaled by the inputs of each unit."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=scale * parameter[0].numel() ** -0.5)
            elif "norm" not in name:
                parameter.normal_(std=0.1)
    return model.eval()


def transducer_tokenizer(*tags: str) -> Any:
    tokenizer = pieces("<unk>", "<pad>", *tags, last=("<blank>",))
    return ParakeetTokenizer(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def write_transducer(
    folder: Path, model_class: Any, config_class: Any, processor: Any, weights: tuple[int, float], **more: Any
) -> Path:
    """A model that emits blanks now and then, and no special token."""
    blank = processor.tokenizer.convert_tokens_to_ids("<blank>")
    config = config_class(
        vocab_size=blank + 1, blank_token_id=blank, pad_token_id=1, decoder_hidden_size=24, num_decoder_layers=1,
        max_symbols_per_step=3, encoder_config=ENCODER, **more,
    )  # fmt: skip
    model = spread(model_class(config), *weights)
    with torch.no_grad():
        model.joint.head.bias[: processor.tokenizer.convert_tokens_to_ids(SYLLABLES[0])] = -100.0
        model.joint.head.bias[blank] = 2.0
        model.joint.head.bias[blank + 1 : blank + 2] = -100.0  # a token of no frames could be emitted for ever
    model.generation_config.decoder_start_token_id = blank
    model.generation_config.suppress_tokens = list(range(blank + 1, len(model.joint.head.bias)))
    return saved(folder, model, processor)


def saved(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_tdt(folder: Path) -> Path:
    processor = ParakeetProcessor(ParakeetFeatureExtractor(), transducer_tokenizer(), decoder_type="tdt")
    return write_transducer(folder, ParakeetForTDT, ParakeetTDTConfig, processor, (8, 3.0))


def write_rnnt(folder: Path) -> Path:
    processor = ParakeetProcessor(ParakeetFeatureExtractor(), transducer_tokenizer(), decoder_type="rnnt")
    return write_transducer(folder, ParakeetForRNNT, ParakeetRNNTConfig, processor, (13, 3.0))


def write_ctc(folder: Path) -> Path:
    tokenizer = ParakeetTokenizer(
        tokenizer_object=pieces("<unk>", last=("<pad>",)), pad_token="<pad>", unk_token="<unk>"
    )
    blank = tokenizer.pad_token_id
    config = ParakeetCTCConfig(vocab_size=blank + 1, pad_token_id=blank, encoder_config=dict(ENCODER))
    model = spread(ParakeetForCTC(config), 8, 3.0)
    with torch.no_grad():
        model.ctc_head.bias[0] = -100.0
        model.ctc_head.bias[blank] = 3.0
    return saved(folder, model, ParakeetProcessor(ParakeetFeatureExtractor(), tokenizer, decoder_type="ctc"))


def write_nemotron(folder: Path) -> Path:
    processor = NemotronAsrStreamingProcessor(NemotronAsrStreamingFeatureExtractor(), transducer_tokenizer())
    return write_transducer(folder, NemotronAsrStreamingForRNNT, NemotronAsrStreamingConfig, processor, (10, 2.0))


def write_nemotron3_5(folder: Path) -> Path:
    processor = Nemotron3_5AsrProcessor(NemotronAsrStreamingFeatureExtractor(), transducer_tokenizer("<de-DE>"))
    return write_transducer(
        folder, Nemotron3_5AsrForRNNT, Nemotron3_5AsrConfig, processor, (13, 4.0), prompt_intermediate_size=32
    )


CANARY_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "<|start|><|{{ part['source_language'] }}|><|{{ part['target_language'] }}|>"
    "{{ '<|pnc|>' if part['punctuation'] else '<|nopnc|>' }}{% endif %}{% endfor %}{% endfor %}"
)


def write_canary(folder: Path) -> Path:
    marks = ("<unk>", "<pad>", "<|end|>", "<|start|>", "<|en|>", "<|de|>", "<|pnc|>", "<|nopnc|>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces(*marks), pad_token="<pad>", eos_token="<|end|>", unk_token="<unk>"
    )
    processor = CanaryProcessor(ParakeetFeatureExtractor(), tokenizer, chat_template=CANARY_TEMPLATE)
    size = len(tokenizer)
    config = CanaryConfig(
        vocab_size=size, pad_token_id=1, eos_token_id=2, bos_token_id=3, decoder_start_token_id=3,
        encoder_config={**ENCODER, "scale_input": False},
        decoder_config={
            "vocab_size": size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
            "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 3,
        },
    )  # fmt: skip
    return saved(
        folder, ending(spread(CanaryForConditionalGeneration(config), 14, 3.0), (0, 1, 3, 4, 5, 6, 7)), processor
    )


def ending(model: Any, never: tuple[int, ...]) -> Any:
    """Of a decoder with a bias of the output: special tokens in the text would say nothing."""
    with torch.no_grad():
        model.proj_out.bias[list(never)] = -100.0
    return model


def write_moonshine(folder: Path) -> Path:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces("<unk>", "<s>", "</s>"), pad_token="</s>", eos_token="</s>", bos_token="<s>"
    )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    config = MoonshineConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2, encoder_num_attention_heads=2, decoder_num_attention_heads=2, pad_token_id=2,
    )  # fmt: skip
    return saved(
        folder, spread(MoonshineForConditionalGeneration(config), 1, 3.0), Wav2Vec2Processor(extractor, tokenizer)
    )


def bytes_tokenizer(*marks: str, plain: tuple[str, ...] = ()) -> Tokenizer:
    """Every byte is a token, and so is every syllable and every mark; `plain` marks are part of the text."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(s.replace("▁", "Ġ") for s in LONG)]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(marks))
    tokenizer.add_tokens(list(plain))
    return tokenizer


QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% if not (loop.last and continue_final_message) %}<|im_end|>\n{% endif %}{% endfor %}"
)
QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>")


def write_qwen(folder: Path) -> Path:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_tokenizer(*QWEN_MARKS, plain=("<asr_text>",)), pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>",
        },
    )  # fmt: skip
    processor = Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=QWEN_TEMPLATE)
    to_id = tokenizer.get_vocab().__getitem__
    config = Qwen3ASRConfig(
        audio_token_id=to_id("<|audio_pad|>"), pad_token_id=to_id("<|endoftext|>"), eos_token_id=to_id("<|im_end|>"),
        audio_config={
            "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32, "output_dim": 32,
            "downsample_hidden_size": 8,
        },
        text_config={**LANGUAGE_MODEL, "vocab_size": len(tokenizer), "tie_word_embeddings": False},
        tie_word_embeddings=False,
    )  # fmt: skip
    model = spread(Qwen3ASRForConditionalGeneration(config), 7, 2.0)
    louder(model, range(256, 256 + len(LONG)), to_id("<|im_end|>"))
    model.generation_config.eos_token_id = to_id("<|im_end|>")
    model.generation_config.pad_token_id = to_id("<|endoftext|>")
    return saved(folder, model, processor)


def louder(model: Any, tokens: Iterable[int], ends: int) -> Any:
    """Of a language model: text is made of `tokens`, and ends now and then. Its output layer has no bias."""
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight *= 0.1
        weight[[*tokens, ends]] *= 10.0
    return model


VOXTRAL_MARKS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]")


def write_voxtral(folder: Path) -> Path:
    """With a vocabulary of bytes in Mistral's own format."""
    size = 256 + len(LONG) + len(VOXTRAL_MARKS)
    config = VoxtralConfig(
        audio_token_id=VOXTRAL_MARKS.index("[AUDIO]"),
        audio_config={
            "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_mel_bins": 32, "max_source_positions": 1500,
        },
        text_config={**LANGUAGE_MODEL, "vocab_size": size, "rms_norm_eps": 1e-5},
    )  # fmt: skip
    model = louder(spread(VoxtralForConditionalGeneration(config), 2, 4.0), range(size - len(LONG), size), 2)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 5
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=32).save_pretrained(folder)
    (folder / "tekken.json").write_text(json.dumps(tekken(VOXTRAL_MARKS)))
    return folder


def tekken(marks: tuple[str, ...]) -> dict[str, Any]:
    """A vocabulary of bytes and syllables in Mistral's own format."""
    special = [{"rank": at, "token_str": mark, "is_control": True} for at, mark in enumerate(marks)]
    known = [*(bytes([at]) for at in range(256)), *(text.replace("▁", " ").encode() for text in LONG)]
    letters = [{"rank": at, "token_bytes": base64.b64encode(text).decode()} for at, text in enumerate(known)]
    return {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+",
            "default_vocab_size": len(known) + len(special), "default_num_special_tokens": len(special), "version": "v7",
        },
        "vocab": letters,
        "special_tokens": special,
    }  # fmt: skip


REALTIME_MARKS = ("<unk>", "<s>", "</s>", "[STREAMING_PAD]", "[STREAMING_WORD]")


def write_voxtral_realtime(folder: Path) -> Path:
    """A short window of the encoder, so that streams grow beyond it. The end of the text is as likely as a letter."""
    size = 256 + len(LONG) + len(REALTIME_MARKS)
    config = VoxtralRealtimeConfig(
        audio_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16,
            "num_mel_bins": 32, "sliding_window": 200,
        },
        text_config={
            **LANGUAGE_MODEL, "vocab_size": size, "rms_norm_eps": 1e-5, "sliding_window": 60,
            "tie_word_embeddings": False,
        },
        tie_word_embeddings=False,
    )  # fmt: skip
    model = louder(spread(VoxtralRealtimeForConditionalGeneration(config), 3, 4.0), range(size - len(LONG), size), 3)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    VoxtralRealtimeFeatureExtractor(feature_size=32).save_pretrained(folder)
    (folder / "tekken.json").write_text(json.dumps(tekken(REALTIME_MARKS)))
    return folder


def write_moonshine_streaming(folder: Path) -> Path:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces("<unk>", "<s>", "</s>"), pad_token="</s>", eos_token="</s>", bos_token="<s>"
    )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    config = MoonshineStreamingConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=2, decoder_start_token_id=1, max_position_embeddings=2048,
        encoder_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 2, "sliding_windows": [[16, 4], [16, 0], [16, 4]],
        },
    )  # fmt: skip
    config.num_key_value_heads = 2  # the model reads it, and the class does not declare it
    model = spread(MoonshineStreamingForConditionalGeneration(config), 1, 3.0)
    model.generation_config.decoder_start_token_id = 1
    return saved(folder, model, MoonshineStreamingProcessor(extractor, tokenizer))


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "canary": write_canary,
    "moonshine": write_moonshine,
    "moonshine_streaming": write_moonshine_streaming,
    "nemotron3_5_asr": write_nemotron3_5,
    "nemotron_asr_streaming": write_nemotron,
    "parakeet_ctc": write_ctc,
    "parakeet_rnnt": write_rnnt,
    "parakeet_tdt": write_tdt,
    "qwen3_asr": write_qwen,
    "voxtral": write_voxtral,
    "voxtral_realtime": write_voxtral_realtime,
}
"""By the model type of a checkpoint."""
