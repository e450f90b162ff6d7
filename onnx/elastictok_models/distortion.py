# SPDX-License-Identifier: MIT OR Apache-2.0
"""The encoder graph's `distortion`: what each cell's luma error will be, before anything is quantised.

The error that a quantiser of step s leaves follows from how much energy the latents have in a few bands of frequency, nearly: a
band keeps its energy where that is small, and a fixed share of s^2 where it is large. A small network corrects what
that leaves out, the in-loop filter above all. train_distortion.py trains it."""
import numpy as np
import torch
from torch import nn

from .config import Config
from .transform import positions

EDGES = (0, 1, 2, 4, 7, 12, 19)  # v + u of a band's last coefficient; a band more for what is beyond
HIDDEN = 24
FLOOR = 1e-3  # energies below this share of s^2 are alike


def bands(cfg: Config) -> np.ndarray:
    """float32 [luma coefficients, bands]: with squared latents in pixel units, a cell's mean squared sample by band."""
    rows = positions(cfg)
    _, t, v, u = rows[rows[:, 0] == 0].T
    band = (len(EDGES) + 1) * t + np.searchsorted(EDGES, v + u)
    return (np.eye(band.max() + 1)[band] / cfg.luma_coefficients).astype(np.float32)


class DistortionHead(nn.Module):
    """Energies float [N, bands] in squared grey levels, step float [N] in grey levels, intra float [N] (1 or 0) to the natural
    logarithm of the mean squared luma error float [N] that a receiver of a quantiser with that step has."""

    def __init__(self, cfg: Config):
        super().__init__()
        share = bands(cfg).sum(0)
        self.register_buffer("share", torch.tensor(share))
        self.saturation = nn.Parameter(torch.full((len(share),), np.log(0.12).item()))
        self.hidden = nn.Linear(len(share) + 2, HIDDEN)
        self.out = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, energies, step, intra):
        relative = energies / step[:, None] ** 2
        most = self.share * torch.exp(self.saturation)
        kept = (relative * most / (relative + most)).sum(1)
        features = torch.cat([torch.log(relative + FLOOR) / 4, torch.log(step)[:, None] / 4, intra[:, None]], 1)
        correction = self.out(torch.relu(self.hidden(features)))[:, 0]
        return torch.log(kept + 1e-6) + 2 * torch.log(step) + correction
