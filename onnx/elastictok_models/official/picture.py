# SPDX-License-Identifier: MIT OR Apache-2.0
"""Frames to patches and back, and the official treatment of stills."""
from __future__ import annotations

import numpy as np

from .config import Config, ConfigError


def patchify(frames: np.ndarray, cfg: Config) -> np.ndarray:
    """Frames [T, H, W, 3] of one tile to patches [blocks*K, patch_dim] in (t, h, w) order, values inside in (t, h, w, colour) order.
    Trailing frames that fill no block are left out. Any dtype. Raises ConfigError where H and W are not the tile's."""
    t = len(frames) // cfg.frames_per_block * cfg.frames_per_block
    width, height = cfg.tile_size
    if frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
        raise ConfigError(f"frames are {list(frames.shape)}, not [T, {height}, {width}, 3]; "
                          "scale them to the model's tile, or set resolution")
    pt, ph, pw = cfg.patch_size
    cut = frames[:t].reshape(t // pt, pt, height // ph, ph, width // pw, pw, 3)
    return cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, cfg.patch_dim)


def unpatchify(patches: np.ndarray, cfg: Config) -> np.ndarray:
    """The inverse of patchify: patches [blocks*K, patch_dim] to frames [T, H, W, 3]."""
    (_, rows, columns), (pt, ph, pw) = cfg.grid, cfg.patch_size
    cut = patches.reshape(-1, rows, columns, pt, ph, pw, 3)
    return cut.transpose(0, 3, 1, 4, 2, 5, 6).reshape(-1, rows * ph, columns * pw, 3)


def to_unit(u8: np.ndarray) -> np.ndarray:
    """8-bit values to float32 in [-1, 1]."""
    return u8.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_8_bit(unit: np.ndarray) -> np.ndarray:
    """float32 in [-1, 1] (clipped) to 8 bits, truncated as the official code does."""
    return ((np.clip(unit, -1, 1).astype(np.float32) + np.float32(1)) * np.float32(127.5)).astype(np.uint8)


def still(image: np.ndarray, cfg: Config) -> np.ndarray:
    """A picture uint8 [H, W, 3] of any size as one block uint8 [frames_per_block, resolution, resolution, 3]: the shorter side scaled
    bilinearly, the middle cut out, repeated. Needs Pillow, whose filter the official loader uses."""
    from PIL import Image

    height, width = image.shape[:2]
    n = cfg.resolution
    ratio = n / min(width, height)
    size = [n, n]
    long = int(max(width, height) * ratio)
    size[0 if width > height else 1] = n if long == n - 1 else long
    scaled = np.asarray(Image.fromarray(image).resize(tuple(size), Image.BILINEAR))
    top, left = (scaled.shape[0] - n) // 2, (scaled.shape[1] - n) // 2
    return scaled[top:top + n, left:left + n][None].repeat(cfg.frames_per_block, 0)
