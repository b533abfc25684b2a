"""Batch norm over the images of all ranks, for CPUs; torch's SyncBatchNorm is for GPUs only.

Mean and variance are computed in two passes, each a differentiable sum over the ranks. In evaluation it is an ordinary
batch norm. Modules are replaced; parameters, buffers and their names are kept.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormOverRanks(_BatchNorm):
    """Batch norm that normalises by the images of all ranks together."""

    def __init__(self, like: _BatchNorm, group: dist.ProcessGroup) -> None:
        super().__init__(0, like.eps, like.momentum, affine=False, track_running_stats=False)
        self._group = group
        self.num_features, self.affine = like.num_features, like.affine
        self.track_running_stats, self.training = like.track_running_stats, like.training
        self._parameters.update(like._parameters)  # the very same ones
        self._buffers.update(like._buffers)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``, [N, C, ...]."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        x = input if input.dtype == torch.float64 else input.float()
        over = [dim for dim in range(x.dim()) if dim != 1]
        each = (1, -1, *([1] * (x.dim() - 2)))
        count = x.new_full((), x.numel() // x.shape[1])
        # The count travels with the sum: the last entry. Ranks may have different numbers of values.
        sums = _sum(torch.cat([x.sum(over), count[None]]), self._group)
        total = sums[-1].detach()
        if total <= 1:
            raise ValueError(f"expected more than 1 value per channel when training, got {tuple(input.shape)}")
        mean = sums[:-1] / total
        centred = x - mean.view(each)
        variance = _sum(centred.square().sum(over), self._group) / total
        self._update_statistics(mean.detach(), variance.detach(), total)
        result = centred * (variance + self.eps).rsqrt().view(each)
        if self.affine:
            result = result * self.weight.to(x.dtype).view(each) + self.bias.to(x.dtype).view(each)
        return result.to(input.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Update the running statistics as torch does: unbiased variance; a plain average if momentum is None."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # noqa: S101  it comes with the other two
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (total / (total - 1))).to(self.running_var.dtype), share)


def _sum(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    total: Tensor = all_reduce(tensor, group=group)  # type: ignore[no-untyped-call]
    return total


def sync_batch_norms(model: nn.Module, group: dist.ProcessGroup, device: torch.device) -> nn.Module:
    """Replace every batch norm in ``model``, and return it; a module used in several places stays one module."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model, group)  # type: ignore[no-untyped-call]
        return converted
    replaced: dict[nn.Module, nn.Module] = {}

    def replace(module: nn.Module) -> nn.Module:
        if module not in replaced:
            plain = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
            replaced[module] = BatchNormOverRanks(module, group) if plain else module  # type: ignore[arg-type]
            for name, child in list(module._modules.items()):
                if child is not None:
                    setattr(module, name, replace(child))
        return replaced[module]

    return replace(model)
