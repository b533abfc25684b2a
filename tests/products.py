"""Small networks that multiply by weights which no convolution or linear layer holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, by torch's layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x, x, x, need_weights=False)[0]
        return output


class Crosswise(nn.Module):
    """Attention to keys and values of another width, so that the layer has three weights."""

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.other, self.layer = other, nn.MultiheadAttention(width, 2, kdim=other, vdim=other, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x, x[..., : self.other], x[..., : self.other])[0]
        return output


class Recurrent(nn.Module):
    """A recurrent layer or cell; of what it returns, the outputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output[0] if isinstance(output, tuple) else output


class Twofold(nn.Module):
    """A bilinear form of an input with itself."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Bilinear(width, width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x, x)
        return output


class ByHand(nn.Module):
    """Parameters of the network's own in a matrix product, an einsum, a product with a vector and a convolution."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(length, length))
        self.heads = nn.Parameter(torch.randn(3, width, 5))
        self.vector = nn.Parameter(torch.randn(width))
        self.kernel = nn.Parameter(torch.randn(2, 1, 3))
        self.scale = nn.Parameter(torch.ones(length, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.tokens @ (x * self.scale)
        by_head = torch.einsum("bld,hdk->bhlk", mixed, self.heads).mean((1, 3))
        return functional.conv1d((by_head + mixed @ self.vector).unsqueeze(1), self.kernel, padding=1)


class Windows(nn.Module):
    """Attention as in Swin v2: a packed layer whose weight a function uses, and a bias computed from constants."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.position = heads, nn.Linear(width, 3 * width), nn.Linear(2, heads, bias=False)
        self.register_buffer("places", torch.randn(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.qkv.bias[:8], torch.zeros(8), self.qkv.bias[16:]))
        packed = functional.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) + self.position(self.places).view(4, 4, -1).permute(2, 0, 1)
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
