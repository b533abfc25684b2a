"""Networks parts of which compute from constants, what they compute being the same for every image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.export_networks import CHANNELS, CLASSES

TOKENS, WIDTH = 16, 16
"""Patches of an image of 8 x 8 pixels, and the size of their features."""


class Patches(nn.Module):
    """Patches, something done to them, a classifier of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.classifier = nn.Conv2d(CHANNELS, WIDTH, 2, stride=2), nn.Linear(WIDTH, len(CLASSES))

    def mix(self, tokens: Tensor) -> Tensor:
        """Map [N, TOKENS, WIDTH] to the same."""
        return tokens

    def forward(self, images: Tensor) -> Tensor:
        tokens = F.relu(self.patches(images)).flatten(2).transpose(1, 2)
        return self.classifier(self.mix(tokens).mean(1))


class PositionBias(Patches):
    """Attention with a bias that two layers compute from coordinates, as in Swin v2."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("coordinates", torch.linspace(-1, 1, TOKENS**2 * 2).view(-1, 2))
        self.hidden, self.bias = nn.Linear(2, 32), nn.Linear(32, 1, bias=False)

    def mix(self, tokens: Tensor) -> Tensor:
        bias = 16 * torch.sigmoid(self.bias(F.relu(self.hidden(self.coordinates)))).view(1, TOKENS, TOKENS)
        return F.scaled_dot_product_attention(tokens[:, None], tokens[:, None], tokens[:, None], bias[None])[:, 0]


class MadeFilters(Patches):
    """Depthwise filters that another network makes from the places in the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.linspace(-1, 1, 18).view(9, 2))
        self.hidden, self.filters = nn.Linear(2, 32), nn.Linear(32, WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        filters = self.filters(torch.tanh(self.hidden(self.places))).mT.reshape(WIDTH, 1, 3, 3)
        return F.conv2d(tokens.mT.unflatten(2, (4, 4)), filters, groups=WIDTH, padding=1).flatten(2).mT


class Token(Patches):
    """A linear layer applied to a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.projection = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Linear(WIDTH, WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens + self.projection(self.token)


class TokenOfTheBatch(Token):
    """The parameter is repeated for each image first, so that the product is one of the batch."""

    def mix(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.projection(self.token.expand(tokens.shape[0], -1, -1)), tokens], 1)


class SharedToken(Token):
    """The layer is applied to the images too."""

    def mix(self, tokens: Tensor) -> Tensor:
        return self.projection(tokens) + self.projection(self.token)


class MapOfPlaces(Patches):
    """A convolution and a norm over a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.linspace(-1, 1, 32).view(1, 2, 4, 4))
        self.conv, self.norm = nn.Conv2d(2, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens + self.norm(self.conv(self.places)).flatten(2).mT


class LargePlaces(Patches):
    """A layer over a buffer that is too large for the exporter to compute its result."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.linspace(-1, 1, 20_000)[None])
        self.projection = nn.Linear(20_000, WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens + self.projection(self.places)


class Resampled(Patches):
    """Embeddings of positions, projected and brought to another size."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.projection = nn.Parameter(torch.randn(1, 8, 7, 7)), nn.Conv2d(8, WIDTH, 1)

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens + F.interpolate(self.projection(self.positions), size=4, mode="bilinear").flatten(2).mT


class Embedded(Patches):
    """A projection of embeddings of all places, whose numbers are made in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.projection = nn.Embedding(TOKENS, 8), nn.Linear(8, WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens + self.projection(self.places(torch.arange(TOKENS, device=tokens.device)))


class Queries(Patches):
    """Learned queries attend to each other before they see an image, as in detection transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.attention, self.projection = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        queries = self.attention(self.queries, self.queries, self.queries, need_weights=False)[0]
        return torch.softmax(self.projection(queries) @ tokens.mT, -1) @ tokens


class Causal(Patches):
    """Attention with a precomputed mask, which is minus infinity where nothing may be seen."""

    nothing = float("-inf")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((TOKENS, TOKENS), self.nothing).triu(1), persistent=False)
        self.projection = nn.Linear(WIDTH, WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        return torch.softmax(self.projection(tokens) @ tokens.mT + self.mask, -1) @ tokens


class CausalFinite(Causal):
    """The same with the least number of fp32."""

    nothing = torch.finfo(torch.float32).min


class Standardised(Patches):
    """A layer that multiplies by something else than its weight, which is no constant part."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(WIDTH, WIDTH)

    def mix(self, tokens: Tensor) -> Tensor:
        weight = self.projection.weight
        return F.linear(tokens, (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True))
