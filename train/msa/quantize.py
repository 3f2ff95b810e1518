"""Weight-only quantisation: the two forms of the model folder, in groups of 32 inputs.

int8: `X.weight` I8 [out, in], `X.weight_scale` F16 [out, in/32]; value = q * scale. The group follows
      from the scale's shape; quantize_q8_rows makes it the whole row.
int4: `X.weight_q4` U8 [out, in/2], `X.weight_scale` and `X.weight_min` F16 [out, in/32];
      value = nibble * scale + min; byte j of a group holds element j (low) and j + 16 (high).
"""

from __future__ import annotations

import numpy as np

GROUP = 32


def groups(w: np.ndarray) -> np.ndarray:
    out, n = w.shape
    if n % GROUP:
        raise ValueError(f"{n} inputs are not a multiple of {GROUP}")
    return w.astype(np.float32).reshape(out, n // GROUP, GROUP)


def quantize_q8(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    g = groups(w)
    scale = (np.abs(g).max(-1) / 127).astype(np.float16)
    s = scale.astype(np.float32)[..., None]
    q = np.clip(np.rint(np.divide(g, s, out=np.zeros_like(g), where=s > 0)), -127, 127)
    return q.astype(np.int8).reshape(w.shape), scale


def quantize_q8_rows(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 with one scale for a whole row, [out, 1]: the embedding, where groups gain little."""
    w = w.astype(np.float32)
    scale = (np.abs(w).max(-1, keepdims=True) / 127).astype(np.float16)
    s = scale.astype(np.float32)
    q = np.clip(np.rint(np.divide(w, s, out=np.zeros_like(w), where=s > 0)), -127, 127)
    return q.astype(np.int8), scale


def pack_q4(nibbles: np.ndarray) -> np.ndarray:
    """[out, groups, 32] of 0..15 -> uint8 [out, groups * 16]."""
    packed = nibbles[..., :16] | (nibbles[..., 16:] << 4)
    return packed.astype(np.uint8).reshape(nibbles.shape[0], -1)


def quantize_q4(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    g = groups(w)
    low = g.min(-1).astype(np.float16)
    scale = ((g.max(-1) - low.astype(np.float32)) / 15).astype(np.float16)
    s, m = scale.astype(np.float32)[..., None], low.astype(np.float32)[..., None]
    q = np.clip(np.rint(np.divide(g - m, s, out=np.zeros_like(g), where=s > 0)), 0, 15)
    return pack_q4(q.astype(np.uint8)), scale, low


def dequantize_q8(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    g = q.astype(np.float32).reshape(*scale.shape, -1)
    return (g * scale.astype(np.float32)[..., None]).reshape(q.shape)


def dequantize_q4(q: np.ndarray, scale: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    b = q.reshape(q.shape[0], -1, 16)
    nibbles = np.concatenate([b & 15, b >> 4], axis=-1).astype(np.float32)
    s, m = scale.astype(np.float32)[..., None], minimum.astype(np.float32)[..., None]
    return (nibbles * s + m).reshape(q.shape[0], -1)
