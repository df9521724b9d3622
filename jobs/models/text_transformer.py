"""A transformer encoder over the UTF-8 bytes of one text column; numbers and categories join before the head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from conf.errors import BadInput
from jobs.models.dropout import Dropout
from jobs.models.predictor import Inputs

GRAM = 7  # bytes that one byte is read with: about a word
BYTES = 256  # 0 is padding: no character has it but NUL


class TextTransformer(nn.Module):
    """`depth` blocks of `width` units and `heads` heads over the first `length` bytes, `patch` bytes a position.

    A position is the largest of its bytes' convolutions, each over GRAM bytes' embeddings (Kim et al. 2016, character
    aware language models), plus a learned place (Vaswani et al. 2017). The text is mean and largest over its positions,
    a missing one zeros.
    """

    def __init__(
        self,
        inputs: Inputs,
        outputs: int,
        width: int,
        depth: int,
        heads: int,
        length: int,
        patch: int,
        dropout: float,
    ) -> None:
        super().__init__()
        _check(inputs, {"width": width, "depth": depth, "heads": heads, "length": length, "patch": patch}, dropout)
        self.length, self.patch = length, patch
        self.embedding = nn.Embedding(BYTES, width, padding_idx=0)
        self.grams = nn.Conv1d(width, width, GRAM, padding=GRAM // 2)
        self.places = nn.Parameter(torch.randn(-(-length // patch), width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.categories = nn.ModuleList(nn.Embedding(size, min(width, 16), padding_idx=0) for size in inputs.categories)
        joined = 2 * width + inputs.features + len(inputs.categories) * min(width, 16)
        self.head = nn.Linear(joined, outputs)

    def forward(self, features: Tensor, codes: Tensor, text: Tensor) -> Tensor:
        """Return [N, outputs]; text: [N, L] uint8, zeros at the end."""
        read = functional.pad(text[:, : self.length].long(), (0, self.patch - 1))  # the last patch may lack some
        grams = functional.gelu(self.grams(self.embedding(read).transpose(1, 2)))
        units = functional.max_pool1d(grams, self.patch).transpose(1, 2)
        there = functional.max_pool1d((read > 0).float()[:, None], self.patch)[:, 0]  # [N, positions]
        units = units + self.places[: units.shape[1]]
        for block in self.blocks:
            units = block(units, there)
        units = self.norm(units) * there[:, :, None]
        mean = units.sum(1) / there.sum(1, keepdim=True).clamp(min=1.0)
        most = (units - 1e4 * (1.0 - there)[:, :, None]).amax(1) * there.amax(1, keepdim=True)
        known = [table(codes[:, column]) for column, table in enumerate(self.categories)]
        result: Tensor = self.head(torch.cat([mean, most, features, *known], dim=1))
        return result


class Block(nn.Module):
    """Attention and a two-layer perceptron, each normalised before and added to what goes in (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, units: Tensor, there: Tensor) -> Tensor:
        """Return [N, P, width]; there: [N, P], 1 where a position has a byte and 0 elsewhere."""
        units = units + self.dropout(self.out(self._attend(self.norm_1(units), there)))
        made: Tensor = units + self.dropout(self.narrow(functional.gelu(self.wide(self.norm_2(units)))))
        return made

    def _attend(self, units: Tensor, there: Tensor) -> Tensor:
        rows, positions, width = units.shape
        split = self.qkv(units).view(rows, positions, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        hidden = ((there - 1.0) * 1e4)[:, None, None, :].to(query.dtype)
        if torch.onnx.is_in_onnx_export():
            scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads) + hidden
            mixed = torch.softmax(scores, -1) @ value
        else:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
        joined: Tensor = mixed.transpose(1, 2).reshape(rows, positions, width)
        return joined


def _check(inputs: Inputs, sizes: dict[str, int], dropout: float) -> None:
    for key, value in sizes.items():
        if value < 1:
            raise BadInput(f"model.{key}", value, "is out of range", "give at least 1")
    if sizes["width"] % sizes["heads"]:
        bound = f"does not divide model.width={sizes['width']}"
        raise BadInput("model.heads", sizes["heads"], bound, "give a divisor of the width")
    if not 0 <= dropout < 1:
        raise BadInput("model.dropout", dropout, "is out of range", "give at least 0 and less than 1")
    if len(inputs.texts) != 1:
        bound = f"reads one text column, and there are {len(inputs.texts)}"
        raise BadInput("model", "text_transformer", bound, "declare one: dataset.columns.<name>.type=text")
