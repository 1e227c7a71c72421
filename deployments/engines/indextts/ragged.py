"""Rows of different lengths through a network that was made for one: what stands behind a row's end is, before every layer
that looks sideways, what that layer sees there when the row is alone. So a batch gives each row exactly its own result.

Layers write their surroundings in three ways: zeros, the last value again, or the values before it mirrored. Values behind an
end are never read as anything else, so they are overwritten in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

MARGIN = 8
"""Places behind the longest row, so that no layer's own border meets a row that is a little shorter."""

Fill = Callable[[Tensor, int], None]
"""Writes what follows place `end` of (channels, places)."""


def zeros(row: Tensor, end: int) -> None:
    """Nothing follows."""
    row[:, end:] = 0


def last(row: Tensor, end: int) -> None:
    """The last value again."""
    row[:, end:] = row[:, end - 1 : end]


def mirrored(row: Tensor, end: int) -> None:
    """The values before the last, backwards."""
    count = min(row.shape[1] - end, end - 1, MARGIN)
    row[:, end : end + count] = row[:, end - 1 - count : end - 1].flip(-1)


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows (n_i, ...) as one (batch, longest, ...) tensor; of different lengths, with a margin behind the longest."""
    batch = pad_sequence(list(rows), batch_first=True)
    if len({len(row) for row in rows}) == 1:
        return batch
    return torch.cat([batch, batch.new_zeros(len(batch), MARGIN, *batch.shape[2:])], dim=1)


@contextmanager
def ragged(
    network: nn.Module,
    lengths: Sequence[int],
    fills: Mapping[type[nn.Module], Fill],
    attention: type[nn.Module] | None = None,
) -> Iterator[None]:
    """Inside, the network takes (batch, channels, places) whose rows end at `lengths`, and so do layers that have several
    places for each, as an upsampling network's. `fills` says what each kind of layer sees behind an end; modules of the kind
    `attention` take a `mask` and attend to nothing there."""
    if len(set(lengths)) == 1:
        yield
        return
    longest = max(lengths) + MARGIN
    with ExitStack() as hooks:
        for layer in network.modules():
            if type(layer) in fills:
                hook = layer.register_forward_pre_hook(_filling(fills[type(layer)], lengths, longest))
                hooks.callback(hook.remove)
            elif type(layer) is attention:
                hook = layer.register_forward_pre_hook(_masking(lengths, longest), with_kwargs=True)
                hooks.callback(hook.remove)
        yield


def _filling(fill: Fill, lengths: Sequence[int], longest: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        places = inputs[0].shape[-1]
        if places < longest:
            return  # what all places share, such as the time
        for row, length in zip(inputs[0], lengths, strict=True):
            fill(row, length * (places // longest))

    return before


def _masking(lengths: Sequence[int], longest: int) -> Callable[..., tuple[Any, dict[str, Any]]]:
    mask = (torch.arange(longest)[None, :] < torch.tensor(list(lengths))[:, None])[:, None, None, :]

    def before(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, {**keywords, "mask": mask}

    return before
