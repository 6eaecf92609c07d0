"""What generate.py writes files with, and draws inputs with."""
import json
import os
import struct
import sys

import numpy as np
import torch

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
TORCH = torch.__version__.split("+")[0]


def write_safetensors(name, tensors, metadata):
    """Writes f32 and i64 tensors; the same bytes each run."""
    header = {"__metadata__": {"generator": "PyTorch " + TORCH, **metadata}}
    body = b""
    # i64 first, so that all data is aligned to its type
    for key, t in sorted(tensors.items(), key=lambda kv: kv[1].is_floating_point()):
        t = t.detach()
        if t.is_floating_point():
            t, dtype = t.to(torch.float32), "F32"
        else:
            t, dtype = t.to(torch.int64), "I64"
        raw = t.contiguous().numpy().tobytes()
        header[key] = {"dtype": dtype, "shape": list(t.shape),
                       "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)


def write_json(name, value):
    with open(os.path.join(OUT, name), "w") as f:
        f.write(json.dumps(value, indent=1) + "\n")


def f32(a):
    """numpy -> float64 tensor whose values are exactly representable in f32."""
    return torch.from_numpy(np.asarray(a, dtype=np.float32).astype(np.float64))


class Rng:
    def __init__(self, seed):
        self.r = np.random.RandomState(seed)

    def normal(self, *shape, std=1.0, mean=0.0):
        return f32(mean + std * self.r.standard_normal(shape))

    def uniform(self, *shape, lo=0.0, hi=1.0):
        return f32(self.r.uniform(lo, hi, shape))

    def ints(self, *shape, lo=0, hi=10):
        return torch.from_numpy(self.r.randint(lo, hi, shape).astype(np.int64))
