# SPDX-License-Identifier: MIT OR Apache-2.0
"""The learned in-loop filter: small residual networks at 1/4 resolution, all frames of a block at once."""
import torch
from torch import nn

from .config import CHROMA_CENTRE, CHROMA_SCALE, LUMA_CENTRE, LUMA_SCALE, K, Config


class Mixer(nn.Module):
    """Depthwise 3x3, then a pointwise bottleneck; residual."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        return x + self.project(torch.relu(self.expand(self.depthwise(x))))


class LoopFilter(nn.Module):
    """Predicts what quantisation took away from a decoded block.

    Inputs (B = batch, N = cfg.luma_patch + cfg.chroma_patch): recon, residual float [B, N, H/4, W/4], prediction + residual
    and the decoded residual in pixel units, of a patch the samples [T, 4, 4] of luma, then [T, 2, 2, 2] of chroma; step float
    [B], the quantiser step in pixel units (beyond cfg.coarsest_step it counts as that); mask float [B, 1, H/4, W/4], 1 in
    patches to correct (filter_graph.corrected_patches). Output: correction in pixel units, same shape as recon, exactly zero
    where the mask is.

    Luma is told the step once, beside the place of a patch in its cell (edges of the transform and of motion are filtered
    differently): nothing between the first layer and the last depends on it. Chroma has a smaller network of its own, which
    sees what luma's ends with."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.luma, self.coarsest_step = cfg.luma_patch, cfg.coarsest_step
        mixers = lambda n, *sizes: nn.ModuleList(Mixer(*sizes) for _ in range(n))
        self.condition = nn.Sequential(nn.Linear(1, cfg.embedding), nn.ReLU(), nn.Linear(cfg.embedding, cfg.embedding))
        self.place = nn.Parameter(torch.randn(cfg.embedding, K, K) * 0.1)
        self.head = nn.Conv2d(2 * cfg.luma_patch + cfg.embedding, cfg.channels, 1)
        self.body = mixers(cfg.blocks, cfg.channels, cfg.hidden)
        self.tail = nn.Conv2d(cfg.channels, cfg.luma_patch, 1, bias=False)
        self.gain = nn.Linear(cfg.embedding, 1)
        self.chroma_head = nn.Conv2d(2 * cfg.chroma_patch, cfg.chroma_channels, 1)
        self.chroma_luma = nn.Conv2d(cfg.channels, cfg.chroma_channels, 1, bias=False)
        self.chroma_body = mixers(cfg.chroma_blocks, cfg.chroma_channels, cfg.chroma_hidden)
        self.chroma_tail = nn.Conv2d(cfg.chroma_channels, cfg.chroma_patch, 1, bias=False)
        for zero in (self.tail.weight, self.gain.weight, self.gain.bias, self.chroma_tail.weight):
            nn.init.zeros_(zero)

    def forward(self, recon, residual, step, mask):
        step = step.clamp(max=self.coarsest_step)
        condition = self.condition(torch.log2(step)[:, None] / 4 - 1)
        s = step[:, None, None, None]
        residual = (residual / s).clamp(-8, 8) / 2
        place = self.place.repeat(1, recon.shape[2] // K, recon.shape[3] // K) + condition[:, :, None, None]
        h = self.head(torch.cat([recon[:, :self.luma] / LUMA_SCALE - LUMA_CENTRE, residual[:, :self.luma], place], 1))
        for mixer in self.body:
            h = mixer(h)
        luma = self.tail(h * mask) * torch.exp(self.gain(condition))[:, :, None, None]
        c = self.chroma_head(torch.cat([recon[:, self.luma:] / CHROMA_SCALE - CHROMA_CENTRE, residual[:, self.luma:]], 1))
        c = c + self.chroma_luma(h.detach())  # luma is not to suffer for chroma
        for mixer in self.chroma_body:
            c = mixer(c)
        return torch.cat([luma, self.chroma_tail(c * mask)], 1) * s
