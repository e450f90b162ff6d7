# SPDX-License-Identifier: MIT OR Apache-2.0
"""A loss for plain surfaces: patterns that a mean squared error does not feel, and the eye sees.

Where the source is plain, squared differences between the errors of samples 1 to 4 apart count: a pattern costs there, an offset does not. What a
conditional mean is does not change, but what rounding in the filter leaves is moved to where it is not seen."""
import torch
from torch import nn

from .config import PATCH, Config

DEVIATION, SECOND = 4.0, 6.0  # grey levels: largest deviation, and less than what second difference, of a plain surface
WINDOW = 16  # samples on a side of what must be plain, in luma


def picture(x: torch.Tensor, side: int) -> torch.Tensor:
    """Patches [B, n * side * side, h, w] as planes [B, n, h * side, w * side]."""
    return nn.functional.pixel_shuffle(x, side)


def plain(planes: torch.Tensor, window: int) -> torch.Tensor:
    """float [B, n, h, w]: 1 where planes [B, n, h, w] are plain in a square of `window` samples around."""
    second = torch.zeros_like(planes)
    for axis in (2, 3):
        n = planes.shape[axis]
        middle = planes.narrow(axis, 1, n - 2)
        bent = (planes.narrow(axis, 2, n - 2) - 2 * middle + planes.narrow(axis, 0, n - 2)).abs()
        second.narrow(axis, 1, n - 2).copy_(torch.maximum(second.narrow(axis, 1, n - 2), bent))
    around = dict(kernel_size=window - 1, stride=1, padding=window // 2 - 1)
    mean = lambda x: nn.functional.avg_pool2d(x, count_include_pad=False, **around)
    middle = planes - 128
    variance = mean(middle**2) - mean(middle) ** 2
    return ((nn.functional.max_pool2d(second, **around) < SECOND) & (variance < DEVIATION**2)).float()


def patterns(error: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """float [B]: mean squared difference of `error` between samples 1 to 4 apart, across and down, in places `where` [B, n, h, w] is 1; 0 for
    samples that have none."""
    total, count = 0, 0
    for distance in range(1, PATCH + 1):
        for axis in (2, 3):
            n = error.shape[axis] - distance
            both = where.narrow(axis, 0, n) * where.narrow(axis, distance, n)
            total = total + ((error.narrow(axis, distance, n) - error.narrow(axis, 0, n)) ** 2 * both).sum((1, 2, 3))
            count = count + both.sum((1, 2, 3))
    return total / count.clamp(min=1)


def plain_loss(cfg: Config, out: torch.Tensor, source: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """Patterns of luma and of chroma, float [B] each, in patches [B, luma_patch + chroma_patch, h, w] where mask is 1."""
    found = []
    for part, side, window in ((slice(cfg.luma_patch), PATCH, WINDOW), (slice(cfg.luma_patch, None), PATCH // 2, WINDOW // 2)):
        shown, wanted = picture(out[:, part].clamp(0, 255), side), picture(source[:, part], side)
        inside = mask.repeat_interleave(side, 2).repeat_interleave(side, 3)
        found.append(patterns(shown - wanted, plain(wanted, window) * inside))
    return found
