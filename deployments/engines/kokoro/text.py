"""From phonemes to the vocoder's input: the duration of each phoneme, pitch, loudness, and text features.

Shapes: (rows, width, channels) unless stated otherwise; `style` is (rows, style), the prosody half of a voice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.engines.kokoro.ragged import BiLstm, Conv, RaggedRows, UpConv

HALF_ROOT = 0.5**0.5


class Albert(nn.Module):
    """ALBERT (https://arxiv.org/abs/1909.11942): one layer, run `passes` times."""

    def __init__(
        self, vocabulary: int, embedding: int, hidden: int, heads: int, inner: int, positions: int, passes: int
    ):
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, embedding),
                "position_embeddings": nn.Embedding(positions, embedding),
                "token_type_embeddings": nn.Embedding(2, embedding),
                "LayerNorm": nn.LayerNorm(embedding, eps=1e-12),
            }
        )
        layer = AlbertLayer(hidden, heads, inner)
        group = nn.ModuleDict({"albert_layers": nn.ModuleList([layer])})
        self.encoder = nn.ModuleDict(
            {"embedding_hidden_mapping_in": nn.Linear(embedding, hidden), "albert_layer_groups": nn.ModuleList([group])}
        )
        self._layer = [layer]  # in a list, so that its parameters have one name only
        self._passes = passes

    def forward(self, tokens: Tensor, rows: RaggedRows) -> Tensor:
        """Tokens (rows, width) to (rows, width, hidden)."""
        tables = self.embeddings
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x: Tensor = tables["word_embeddings"](tokens) + tables["position_embeddings"](positions)
        x = tables["LayerNorm"](x + tables["token_type_embeddings"](torch.zeros_like(tokens)))
        x = self.encoder["embedding_hidden_mapping_in"](x)
        attended = None if rows.mask is None else rows.mask.bool().transpose(1, 2)[:, None]
        for _ in range(self._passes):
            x = self._layer[0](x, attended)
        return x


class AlbertLayer(nn.Module):
    """Attention and a feed-forward part, each followed by a norm."""

    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self._heads = heads
        names = ("query", "key", "value", "dense")
        self.attention = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in names})
        self.attention["LayerNorm"] = nn.LayerNorm(hidden, eps=1e-12)
        self.ffn = nn.Linear(hidden, inner)
        self.ffn_output = nn.Linear(inner, hidden)
        self.full_layer_layer_norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """(rows, width, hidden); `attended` (rows, 1, 1, width) marks the positions that are not padding."""
        query, key, value = (
            self.attention[name](x).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        mixed = self.attention["dense"](mixed.transpose(1, 2).flatten(2))
        x = self.attention["LayerNorm"](x + mixed)
        inner = functional.gelu(self.ffn(x), approximate="tanh")
        normed: Tensor = self.full_layer_layer_norm(self.ffn_output(inner) + x)
        return normed


class ChannelNorm(nn.Module):
    """Layer norm over the channels, with the package's parameter names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return functional.layer_norm(x, self.gamma.shape, self.gamma, self.beta)


class KokoroTextEncoder(nn.Module):
    """Text features for the vocoder."""

    def __init__(self, vocabulary: int, channels: int, kernel: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, channels)
        self.cnn = nn.ModuleList(
            nn.Sequential(Conv(channels, channels, kernel), ChannelNorm(channels)) for _ in range(depth)
        )
        self.lstm = BiLstm(channels, channels)

    def forward(self, tokens: Tensor, rows: RaggedRows) -> Tensor:
        """Tokens (rows, width) to (rows, width, channels)."""
        x = rows.clear(self.embedding(tokens))
        for block in self.cnn:
            x = rows.clear(functional.leaky_relu(block(x), 0.2))
        encoded: Tensor = self.lstm(x, rows)
        return encoded


class StyleNorm(nn.Module):
    """Layer norm over the channels, with scale and shift from the style."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style, 2 * channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """The same shape."""
        scale, shift = self.fc(style).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:]), 1 + scale)


class DurationEncoder(nn.Module):
    """Alternating LSTMs and style norms; `lstms` holds both, as in the package."""

    def __init__(self, style: int, channels: int, depth: int) -> None:
        super().__init__()
        self.lstms = nn.ModuleList()
        for _ in range(depth):
            self.lstms.append(BiLstm(channels + style, channels))
            self.lstms.append(StyleNorm(style, channels))

    def forward(self, x: Tensor, style: Tensor, rows: RaggedRows) -> Tensor:
        """(rows, width, channels) to (rows, width, channels + style)."""
        everywhere = style.unsqueeze(1).expand(-1, x.shape[1], -1)

        def styled(x: Tensor) -> Tensor:
            return rows.clear(torch.cat([x, everywhere], dim=-1))

        x = styled(x)
        for layer in self.lstms:
            x = layer(x, rows) if isinstance(layer, BiLstm) else styled(layer(x, style))
        return x


class AdaIn(nn.Module):
    """Adaptive instance norm: scale and shift from the style (https://arxiv.org/abs/1703.06868)."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style, 2 * channels)

    def forward(self, x: Tensor, style: Tensor, rows: RaggedRows) -> Tensor:
        """The same shape; not zero after a row's end."""
        centred, variance = rows.centred(x)
        scale, shift = self.fc(style).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(shift, centred, (1 + scale) * torch.rsqrt(variance + 1e-5), out=centred)


class StyleBlock(nn.Module):
    """Two convolutions, each after a style norm, with a shortcut; `doubles` makes rows twice as long."""

    def __init__(self, channels_in: int, channels_out: int, style: int, *, doubles: bool = False) -> None:
        super().__init__()
        self.conv1 = Conv(channels_in, channels_out, 3)
        self.conv2 = Conv(channels_out, channels_out, 3)
        self.norm1 = AdaIn(style, channels_in)
        self.norm2 = AdaIn(style, channels_out)
        if channels_in != channels_out:
            self.conv1x1 = Conv(channels_in, channels_out, 1, bias=False)
        if doubles:
            self.pool = UpConv(channels_in, channels_in, 3, 2, groups=channels_in)
        self.doubles = doubles

    def forward(self, x: Tensor, style: Tensor, rows: RaggedRows) -> Tensor:
        """`rows` are the lengths of the input."""
        y = self._active(x, self.norm1, style, rows)
        shortcut = x
        if self.doubles:
            rows = rows.resized(2)
            y = rows.clear(self.pool(y))
            shortcut = shortcut.repeat_interleave(2, dim=1)
        y = rows.clear(self.conv1(y))
        y = self.conv2(self._active(y, self.norm2, style, rows))
        if hasattr(self, "conv1x1"):
            shortcut = self.conv1x1(shortcut)
        return rows.clear((y + shortcut) * HALF_ROOT)

    @staticmethod
    def _active(x: Tensor, norm: AdaIn, style: Tensor, rows: RaggedRows) -> Tensor:
        return rows.clear(functional.leaky_relu_(norm(x, style, rows), 0.2))


class ProsodyPredictor(nn.Module):
    """Predicts durations, pitch and loudness from text features and a style."""

    def __init__(self, style: int, channels: int, depth: int, longest: int) -> None:
        super().__init__()
        self.text_encoder = DurationEncoder(style, channels, depth)
        self.lstm = BiLstm(channels + style, channels)
        self.duration_proj = nn.ModuleDict({"linear_layer": nn.Linear(channels, longest)})
        self.shared = BiLstm(channels + style, channels)
        self.F0 = _curve_blocks(channels, style)
        self.N = _curve_blocks(channels, style)
        self.F0_proj = Conv(channels // 2, 1, 1)
        self.N_proj = Conv(channels // 2, 1, 1)

    def durations(self, encoded: Tensor, speed: Tensor, rows: RaggedRows) -> Tensor:
        """Frames of each phoneme, int64 (rows, width): at least 1, and 0 after a row's end. `speed` is (rows,)."""
        spread = self.duration_proj["linear_layer"](self.lstm(encoded, rows))
        frames = torch.sigmoid(spread).sum(dim=-1) / speed[:, None]
        frames = torch.round(frames).clamp(min=1)
        return (frames if rows.mask is None else frames * rows.mask[..., 0]).long()

    def curves(self, frames: Tensor, style: Tensor, rows: RaggedRows) -> tuple[Tensor, Tensor]:
        """Pitch in Hz and loudness, (rows, 2 * width, 1), from frames (rows, width, channels + style)."""
        shared = self.shared(frames, rows)
        pitch = self._curve(shared, self.F0, self.F0_proj, style, rows)
        return pitch, self._curve(shared, self.N, self.N_proj, style, rows)

    @staticmethod
    def _curve(x: Tensor, blocks: nn.ModuleList, projection: Conv, style: Tensor, rows: RaggedRows) -> Tensor:
        for block in blocks:
            x = block(x, style, rows)
            rows = rows.resized(2) if block.doubles else rows
        return rows.clear(projection(x))


def _curve_blocks(channels: int, style: int) -> nn.ModuleList:
    half = channels // 2
    blocks: Sequence[nn.Module] = (
        StyleBlock(channels, channels, style),
        StyleBlock(channels, half, style, doubles=True),
        StyleBlock(half, half, style),
    )
    return nn.ModuleList(blocks)
