# SPDX-License-Identifier: MIT OR Apache-2.0
"""The learned in-loop filter: a small residual network on luma at 1/4 resolution, all frames of a block at once."""
import torch
from torch import nn

from .config import CELL, PATCH, Config


class Mixer(nn.Module):
    """Depthwise 3x3, then a pointwise bottleneck, scaled and shifted by the quantiser step; residual."""

    def __init__(self, channels: int, expansion: int, condition: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, channels * expansion, 1)
        self.project = nn.Conv2d(channels * expansion, channels, 1)
        self.film = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x, condition):
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        h = self.depthwise(x) * (1 + scale) + shift
        return x + self.project(torch.relu(self.expand(h)))


class LoopFilter(nn.Module):
    """Predicts what quantisation took away from a decoded block's luma.

    Inputs (B = batch, N = cfg.patch): recon, residual float [B, N, H/4, W/4], prediction + residual and the decoded residual
    in pixel units, patch-major; step float [B], the quantiser step in pixel units (beyond
    cfg.coarsest_step it counts as that); mask float [B, 1, H/4, W/4], 1 where the
    cell received any token. Output: correction in pixel units, same shape as recon, exactly zero where the mask is."""

    CONDITION = 16

    def __init__(self, cfg: Config):
        super().__init__()
        n, k = cfg.patch, CELL // PATCH
        self.coarsest_step = cfg.coarsest_step
        self.condition = nn.Sequential(nn.Linear(1, self.CONDITION), nn.ReLU(), nn.Linear(self.CONDITION, self.CONDITION))
        self.head = nn.Conv2d(2 * n, cfg.channels, 1)
        # where a patch lies in its cell: edges of the transform and of motion are filtered differently
        self.place = nn.Parameter(torch.zeros(1, cfg.channels, k, k))
        self.body = nn.ModuleList(Mixer(cfg.channels, cfg.expansion, self.CONDITION) for _ in range(cfg.blocks))
        self.tail = nn.Conv2d(cfg.channels, n, 1, bias=False)
        nn.init.zeros_(self.tail.weight)

    def forward(self, recon, residual, step, mask):
        step = step.clamp(max=self.coarsest_step)
        condition = self.condition(torch.log2(step)[:, None] / 4 - 1)
        s = step[:, None, None, None]
        h = self.head(torch.cat([recon / 64 - 2, (residual / s).clamp(-8, 8) / 2], 1))
        k = CELL // PATCH
        h = h + self.place.repeat(1, 1, h.shape[2] // k, h.shape[3] // k)
        for mixer in self.body:
            h = mixer(h, condition)
        return self.tail(h * mask) * s
