#!/usr/bin/env python3
"""Writes the golden reference files of this folder with PyTorch on the CPU.

Usage: python3 tests/golden/generate.py [output folder]

Needs torch (2.9 or later for Muon) and numpy. Random inputs come from
numpy.random.RandomState, whose streams are frozen, and every float input is
rounded to float32 before use, so a new PyTorch changes only the results.
See README.md for the tensor names.
"""
import json
import math
import os
import re
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
TORCH = torch.__version__.split("+")[0]


# ---- files -----------------------------------------------------------------

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


# ---- GPT -------------------------------------------------------------------

VOCAB, BLOCK, LAYERS, HEADS, WIDTH, BATCH = 61, 16, 3, 4, 32, 3


def gpt_parameters(rng):
    c, p = WIDTH, {}

    def weight(name, *shape):
        p[name] = rng.normal(*shape, std=rng.r.uniform(0.1, 0.2))

    def norm(name):
        p[name + ".weight"] = rng.normal(c, std=0.2, mean=1.0)
        p[name + ".bias"] = rng.normal(c, std=0.1)

    weight("wte.weight", VOCAB, c)
    weight("wpe.weight", BLOCK, c)
    for i in range(LAYERS):
        h = f"h.{i}."
        norm(h + "ln_1")
        weight(h + "attn.qkv.weight", 3 * c, c)
        weight(h + "attn.qkv.bias", 3 * c)
        weight(h + "attn.proj.weight", c, c)
        weight(h + "attn.proj.bias", c)
        norm(h + "ln_2")
        weight(h + "mlp.fc.weight", 4 * c, c)
        weight(h + "mlp.fc.bias", 4 * c)
        weight(h + "mlp.proj.weight", c, 4 * c)
        weight(h + "mlp.proj.bias", c)
    norm("ln_f")
    return p


def gpt_forward(p, tokens, targets):
    b, t = tokens.shape
    d = WIDTH // HEADS
    causal = torch.ones(t, t, dtype=torch.bool).tril()

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), p[name + ".weight"], p[name + ".bias"], 1e-5)

    def linear(x, name):
        return x @ p[name + ".weight"].T + p[name + ".bias"]

    x = p["wte.weight"][tokens] + p["wpe.weight"][:t]
    for i in range(LAYERS):
        h = f"h.{i}."
        q, k, v = linear(norm(x, h + "ln_1"), h + "attn.qkv").split(WIDTH, dim=2)
        q, k, v = (a.view(b, t, HEADS, d).transpose(1, 2) for a in (q, k, v))
        s = q @ k.transpose(2, 3) / math.sqrt(d)
        a = s.masked_fill(~causal, -math.inf).softmax(dim=-1) @ v
        x = x + linear(a.transpose(1, 2).reshape(b, t, WIDTH), h + "attn.proj")
        m = F.gelu(linear(norm(x, h + "ln_2"), h + "mlp.fc"), approximate="tanh")
        x = x + linear(m, h + "mlp.proj")
    logits = norm(x, "ln_f") @ p["wte.weight"].T
    loss = F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=-100)
    return logits, loss


def gpt():
    rng = Rng(1)
    params = {k: v.requires_grad_() for k, v in gpt_parameters(rng).items()}
    tokens = rng.ints(BATCH, BLOCK, hi=VOCAB)
    targets = rng.ints(BATCH, BLOCK, hi=VOCAB)
    targets[0, 3] = targets[0, 15] = targets[1, 0] = -100
    targets[2, 9:12] = -100
    logits, loss = gpt_forward(params, tokens, targets)
    loss.backward()
    with torch.no_grad():
        _, loss32 = gpt_forward({k: v.float() for k, v in params.items()}, tokens, targets)
    out = {"param." + k: v for k, v in params.items()}
    out |= {"grad." + k: v.grad for k, v in params.items()}
    out |= {"tokens": tokens, "targets": targets, "logits": logits,
            "loss": loss, "loss_f32": loss32}
    config = {"vocab": VOCAB, "block": BLOCK, "layers": LAYERS, "heads": HEADS,
              "width": WIDTH, "ln_eps": 1e-5, "gelu": "tanh", "ignore_index": -100,
              "tied": "lm_head = wte"}
    write_safetensors("gpt.safetensors", out, {"config": json.dumps(config)})


# ---- optimizers ------------------------------------------------------------

STEPS = 8


def newton_schulz64(g, steps=5, a=3.4445, b=-4.7750, c=2.0315, eps=1e-7):
    """Muon's orthogonalisation without torch's rounding to bf16."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def muon64(p, grads, adjust, lr=0.02, momentum=0.95, wd=0.1):
    rows, cols = p.shape
    scale = (math.sqrt(max(1, rows / cols)) if adjust == "original"
             else 0.2 * math.sqrt(max(rows, cols)))
    buf, states = torch.zeros_like(p), []
    for g in grads:
        buf = momentum * buf + (1 - momentum) * g
        update = momentum * buf + (1 - momentum) * g
        p = p * (1 - lr * wd) - lr * scale * newton_schulz64(update)
        states.append(p)
    return states


def optimizers():
    rng = Rng(2)
    shapes = {"p0": (7, 5), "p1": (11,), "p2": (5, 7)}
    init = {k: rng.normal(*s, std=0.5) for k, s in shapes.items()}
    grads = [{k: rng.normal(*s, std=0.4) for k, s in shapes.items()} for _ in range(STEPS)]
    for g in grads:
        g["p1"][0] = 0.0  # a gradient that is zero throughout
    out = {"init." + k: v for k, v in init.items()}
    for t, g in enumerate(grads):
        out |= {f"grad.{t}.{k}": v for k, v in g.items()}

    def trajectory(name, make, keys, dtype):
        ps = {k: init[k].clone().to(dtype).requires_grad_() for k in keys}
        opt = make(list(ps.values()))
        for t in range(STEPS):
            for k, p in ps.items():
                p.grad = grads[t][k].to(dtype)
            opt.step()
            for k, p in ps.items():
                out[f"{name}.{t}.{k}"] = p.detach().clone()

    o, f64, both = torch.optim, torch.float64, ("p0", "p1")
    args = {
        "adamw": dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
        "adam": dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01),
        "sgd_nesterov": dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
        "sgd_momentum": dict(lr=0.1, momentum=0.9, dampening=0.0),
    }
    trajectory("adamw", lambda p: o.AdamW(p, foreach=False, **args["adamw"]), both, f64)
    trajectory("adam", lambda p: o.Adam(p, foreach=False, **args["adam"]), both, f64)
    trajectory("sgd_nesterov", lambda p: o.SGD(p, foreach=False, **args["sgd_nesterov"]), both, f64)
    trajectory("sgd_momentum", lambda p: o.SGD(p, foreach=False, **args["sgd_momentum"]), both, f64)

    for adjust in ("original", "match_rms_adamw"):
        a = dict(lr=0.02, momentum=0.95, nesterov=True, weight_decay=0.1,
                 ns_coefficients=(3.4445, -4.7750, 2.0315), ns_steps=5, eps=1e-7,
                 adjust_lr_fn=adjust)
        args["muon_" + adjust] = a
        trajectory("muon_" + adjust, lambda p: o.Muon(p, **a), ("p0", "p2"), torch.float32)
        worst = 0.0
        for k in ("p0", "p2"):
            for t, p in enumerate(muon64(init[k], [g[k] for g in grads], adjust)):
                out[f"muon64_{adjust}.{t}.{k}"] = p
                worst = max(worst, (p - out[f"muon_{adjust}.{t}.{k}"]).abs().max().item())
        print(f"muon_{adjust}: largest difference from the float64 form {worst:.2e}")

    meta = {k: json.dumps(v) for k, v in args.items()}
    meta["muon_note"] = (
        "muon_*: torch.optim.Muon, f32 parameters, Newton-Schulz in bf16 as torch does; "
        "compare with an absolute tolerance of 0.004 "
        "(the float64 form differs by up to 0.0015). "
        "muon64_*: the same formula in float64 throughout, written by hand; compare tightly. "
        "adjust_lr_fn original: lr * sqrt(max(1, rows / cols)); "
        "match_rms_adamw: lr * 0.2 * sqrt(max(rows, cols)). "
        "Weight decay multiplies by 1 - lr * wd with the unadjusted lr.")
    write_safetensors("optim.safetensors", out, meta)


# ---- cross entropy ---------------------------------------------------------

def cross_entropy():
    rng = Rng(3)
    logits, dy = rng.normal(9, 13, std=2.0), rng.normal(9)
    targets = rng.ints(9, hi=13)
    targets[2] = targets[7] = -100
    out = {"logits": logits, "targets": targets, "dy_none": dy}
    for reduction in ("mean", "sum", "none"):
        for ls in (0.0, 0.1):
            x = logits.clone().requires_grad_()
            loss = F.cross_entropy(x, targets, ignore_index=-100, reduction=reduction,
                                   label_smoothing=ls)
            loss.backward(dy if reduction == "none" else None)
            case = f"{reduction}_ls{ls:g}"
            out[case + ".loss"], out[case + ".grad"] = loss, x.grad
    write_safetensors("cross_entropy.safetensors", out,
                      {"ignore_index": "-100",
                       "note": "the gradient of the cases none_* is that of sum(dy_none * loss)"})


# ---- type promotion --------------------------------------------------------

def promotion():
    types = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16,
             "bf16": torch.bfloat16, "i64": torch.int64, "i32": torch.int32,
             "u8": torch.uint8, "bool": torch.bool}
    names = {v: k for k, v in types.items()}

    def table(left, right):
        return {a: {b: names[torch.result_type(left(t), right(u))] for b, u in types.items()}
                for a, t in types.items()}

    def dim(t):
        return torch.ones(2, dtype=t)

    def zero(t):
        return torch.ones((), dtype=t)

    numbers = {"bool": True, "int": 1, "float": 1.0}

    def number_table(left):
        return {a: {n: names[torch.result_type(left(t), v)] for n, v in numbers.items()}
                for a, t in types.items()}

    write_json("promotion.json", {
        "generator": "torch.result_type, PyTorch " + TORCH,
        "note": "table[first operand][second operand]; the default dtype is f32",
        "tensor_tensor": table(dim, dim),
        "tensor_zerodim": table(dim, zero),
        "zerodim_zerodim": table(zero, zero),
        "tensor_number": number_table(dim),
        "zerodim_number": number_table(zero),
    })


# ---- operations ------------------------------------------------------------

def rope_tables(t, d, base=10000.0):
    """cos and sin of position * base^(-2i/d), each [t, d/2]."""
    angle = torch.outer(torch.arange(t, dtype=torch.float64),
                        base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d))
    return angle.cos(), angle.sin()


def rope_interleaved(x):
    """Rotates the pairs (x[2i], x[2i+1]); x is [batch, heads, time, dim]."""
    cos, sin = rope_tables(*x.shape[-2:])
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def rope_half(x):
    """Rotates the pairs (x[i], x[i + d/2]), as GPT-NeoX and llama do."""
    cos, sin = rope_tables(*x.shape[-2:])
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def operations():
    rng = Rng(4)
    out, meta = {}, {}

    def case(name, fn, *inputs, extra=None, **attrs):
        xs = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        y = fn(*xs)
        dy = rng.normal(*y.shape)
        y.backward(dy)
        for i, x in enumerate(inputs):
            out[f"{name}.input{i}"] = x
        out[name + ".output"], out[name + ".dy"] = y, dy
        for i, x in enumerate(xs):
            if x.requires_grad:
                out[f"{name}.grad{i}"] = x.grad
        for k, v in (extra or {}).items():
            out[f"{name}.{k}"] = v
        meta[name] = json.dumps(attrs)

    n = rng.normal

    # convolution and pooling
    a = dict(stride=2, padding=1, dilation=2, groups=2)
    case("conv2d", lambda x, w, b: F.conv2d(x, w, b, **a),
         n(2, 4, 9, 8), n(6, 2, 3, 3), n(6), inputs="x, weight, bias", **a)
    a1 = dict(stride=1, padding=2, dilation=1, groups=1)
    case("conv1d", lambda x, w, b: F.conv1d(x, w, b, **a1),
         n(2, 3, 10), n(4, 3, 3), n(4), inputs="x, weight, bias", **a1)
    a2 = dict(stride=2, padding=1, output_padding=1, groups=2, dilation=1)
    case("conv_transpose2d", lambda x, w, b: F.conv_transpose2d(x, w, b, **a2),
         n(2, 4, 5, 4), n(4, 3, 3, 3), n(6),
         inputs="x, weight [in, out/groups, kh, kw], bias", **a2)
    a3 = dict(kernel_size=3, stride=2, padding=1)
    case("max_pool2d", lambda x: F.max_pool2d(x, **a3), n(2, 3, 8, 7), **a3)
    for flag in (True, False):
        name = "avg_pool2d_" + ("include_pad" if flag else "exclude_pad")
        case(name, lambda x: F.avg_pool2d(x, **a3, count_include_pad=flag),
             n(2, 3, 8, 7), count_include_pad=flag, **a3)

    # normalisation
    case("group_norm", lambda x, w, b: F.group_norm(x, 3, w, b, 1e-5),
         n(2, 6, 4, 3, mean=0.5), n(6, mean=1.0, std=0.3), n(6), groups=3, eps=1e-5,
         inputs="x, weight, bias")
    mean, var = n(5), rng.uniform(5, lo=0.5, hi=2.0)
    running = {"running_mean_before": mean.clone(), "running_var_before": var.clone()}
    case("batch_norm",
         lambda x, w, b: F.batch_norm(x, mean, var, w, b, training=True, momentum=0.1, eps=1e-5),
         n(4, 5, 3, 2, std=1.5, mean=0.3), n(5, mean=1.0, std=0.3), n(5),
         extra={**running, "running_mean_after": mean, "running_var_after": var},
         training=True, momentum=0.1, eps=1e-5, inputs="x, weight, bias")
    mean2, var2 = running["running_mean_before"], running["running_var_before"]
    case("batch_norm_eval",
         lambda x, w, b: F.batch_norm(x, mean2, var2, w, b, training=False, eps=1e-5),
         n(4, 5, 3, 2, std=1.5, mean=0.3), n(5, mean=1.0, std=0.3), n(5),
         extra={"running_mean": mean2, "running_var": var2},
         training=False, eps=1e-5, inputs="x, weight, bias")
    case("layer_norm", lambda x, w, b: F.layer_norm(x, (8,), w, b, 1e-5),
         n(3, 4, 8, mean=0.5), n(8, mean=1.0, std=0.3), n(8), eps=1e-5,
         inputs="x, weight, bias", normalized_shape=[8])
    case("rms_norm", lambda x, w: F.rms_norm(x, (8,), w, 1e-6),
         n(3, 4, 8, mean=0.5), n(8, mean=1.0, std=0.3), eps=1e-6,
         inputs="x, weight", normalized_shape=[8])

    # attention: [batch, heads, time, dim]
    def sdpa(q, k, v, mask=None, **kw):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **kw)

    def qkv(hq=2, hk=2, tq=5, tk=5):
        return n(2, hq, tq, 4), n(2, hk, tk, 4), n(2, hk, tk, 4)

    case("sdpa", sdpa, *qkv(tq=4, tk=6), inputs="q, k, v")
    case("sdpa_causal", lambda q, k, v: sdpa(q, k, v, is_causal=True), *qkv(),
         inputs="q, k, v", is_causal=True)
    keep = rng.ints(4, 6, hi=2)
    keep[:, 1] = 1  # no row is masked out whole
    case("sdpa_bool_mask", lambda q, k, v, m: sdpa(q, k, v, m.bool()),
         *qkv(tq=4, tk=6), keep, inputs="q, k, v, mask [tq, tk] (1 = attend)")
    case("sdpa_additive_mask", sdpa, *qkv(tq=4, tk=6), n(2, 1, 4, 6),
         inputs="q, k, v, mask [batch, 1, tq, tk] added to the scores")
    case("sdpa_gqa", lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=True),
         *qkv(4, 2), inputs="q, k, v", is_causal=True,
         heads="query head h reads key head h / 2 (integer division)")
    case("sdpa_scale", lambda q, k, v: sdpa(q, k, v, scale=0.3), *qkv(tq=4, tk=6),
         inputs="q, k, v", scale=0.3)

    # reductions
    case("logsumexp", lambda x: torch.logsumexp(x, 1), n(3, 5, 4, std=3.0), dim=1)
    case("logsumexp_dims", lambda x: torch.logsumexp(x, (0, 2), keepdim=True),
         n(3, 5, 4, std=3.0), dim=[0, 2], keepdim=True)
    for name, corr in (("var_unbiased", 1), ("var_biased", 0)):
        case(name, lambda x: torch.var(x, dim=(0, 2), correction=corr), n(3, 5, 4),
             dim=[0, 2], correction=corr)
    case("std", lambda x: torch.std(x, dim=1), n(3, 5), dim=1, correction=1)
    case("norm_l2", lambda x: torch.linalg.vector_norm(x), n(4, 5), ord=2)
    case("norm_l2_dim", lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True), n(4, 5),
         ord=2, dim=1, keepdim=True)
    case("norm_l1_dim", lambda x: torch.linalg.vector_norm(x, 1, dim=0), n(4, 5), ord=1, dim=0)
    case("norm_l3_dim", lambda x: torch.linalg.vector_norm(x, 3, dim=1), n(4, 5), ord=3, dim=1)

    # pointwise
    case("softmax", lambda x: x.softmax(1), n(3, 6, 2, std=2.0), dim=1)
    case("log_softmax", lambda x: x.log_softmax(1), n(3, 6, 2, std=2.0), dim=1)
    case("gelu_erf", lambda x: F.gelu(x), n(4, 6, std=2.0), approximate="none")
    case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), n(4, 6, std=2.0),
         approximate="tanh")
    case("silu", F.silu, n(4, 6, std=2.0))
    case("pow", torch.pow, rng.uniform(3, 4, lo=0.2, hi=2.5), n(3, 4), inputs="base, exponent")
    case("pow_cube", lambda x: x ** 3, n(3, 4), exponent=3)
    case("pow_sqrt", lambda x: x ** 0.5, rng.uniform(3, 4, lo=0.2, hi=2.5), exponent=0.5)
    z, t = n(4, 5, std=3.0), rng.uniform(4, 5)
    for r in ("mean", "none"):
        case("bce_with_logits_" + r,
             lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction=r), z, t,
             reduction=r, inputs="logits, targets")

    # indexing
    case("embedding", lambda w, i: F.embedding(i, w), n(7, 4), rng.ints(3, 5, hi=7),
         inputs="weight, indices")
    case("gather", lambda x, i: x.gather(1, i), n(3, 6), rng.ints(3, 4, hi=6), dim=1,
         inputs="x, index")
    case("scatter_add", lambda x, i, s: x.scatter_add(1, i, s),
         n(3, 6), rng.ints(3, 8, hi=6), n(3, 8), dim=1, inputs="x, index, source")

    # rotary embedding
    case("rope_interleaved", rope_interleaved, n(2, 2, 5, 8), base=10000.0,
         layout="[batch, heads, time, dim]", positions="0 .. time-1")
    case("rope_half", rope_half, n(2, 2, 5, 8), base=10000.0,
         layout="[batch, heads, time, dim]", positions="0 .. time-1")

    write_safetensors("ops.safetensors", out, meta)


# ---- autocast --------------------------------------------------------------

# The lists in the documentation of torch.amp, "CUDA Op-Specific Behavior".
# "lower_precision" is headed "can autocast to float16" there.
AUTOCAST_DOC = {
    "lower_precision": """
        __matmul__ addbmm addmm addmv addr baddbmm bmm multi_dot conv1d conv2d conv3d
        conv_transpose1d conv_transpose2d conv_transpose3d GRUCell linear LSTMCell matmul
        mm mv prelu RNNCell""".split(),
    "fp32": """
        __pow__ __rdiv__ __rpow__ __rtruediv__ acos asin binary_cross_entropy_with_logits
        cosh cosine_embedding_loss cdist cosine_similarity cross_entropy cumprod cumsum
        dist erfinv exp expm1 group_norm hinge_embedding_loss kl_div l1_loss layer_norm
        log log_softmax log10 log1p log2 margin_ranking_loss mse_loss
        multilabel_margin_loss multi_margin_loss nll_loss norm normalize pdist
        poisson_nll_loss pow prod reciprocal rsqrt sinh smooth_l1_loss soft_margin_loss
        softmax softmin softplus sum renorm tan triplet_margin_loss""".split(),
    "widest": """
        addcdiv addcmul atan2 bilinear cross dot grid_sample index_put scatter_add
        tensordot""".split(),
    "banned": ["binary_cross_entropy"],
}


def autocast():
    """The documented lists, and the operators that this torch registers."""
    header = os.path.join(os.path.dirname(torch.__file__), "include", "ATen", "autocast_mode.h")
    with open(header) as f:
        text = f.read()

    def macro(name):
        start = text.index("#define " + name + "(_)")
        body = re.match(r"(?:.*\\\n)*.*\n", text[start:]).group(0)
        if "ADD_NS" in body:  # these name the operator in a string
            return re.findall(r'"([\w.]+)"', body)
        found = re.findall(r"\b_\((\w+)(?:,\s*(\w+))?\)", body)
        return [op + ("." + overload if overload else "") for op, overload in found]

    ops = {
        "lower_precision": macro("AT_FORALL_LOWER_PRECISION_FP"),
        "fp32": macro("AT_FORALL_FP32"),
        "fp32_unless_dtype_given": macro("AT_FORALL_FP32_SET_OPT_DTYPE")
        + macro("AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE"),
        "widest": macro("AT_FORALL_PROMOTE"),
        "banned": ["binary_cross_entropy"],
    }
    # Cross-check with the dispatcher: what has a CUDA autocast kernel.
    registered = {r.removeprefix("aten::") for r in
                  torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")
                  if r.startswith("aten::")}
    listed = {op for ops_of in ops.values() for op in ops_of}
    assert listed <= registered, sorted(listed - registered)
    ops["other"] = sorted(registered - listed)
    write_json("autocast_lists.json", {
        "documentation": {
            "source": "torch.amp, Autocast Op Reference, CUDA Op-Specific Behavior: "
                      "docs/source/amp.md of PyTorch at commit 4e0ff98084d4",
            **AUTOCAST_DOC,
        },
        "operators": {
            "source": "the operators of PyTorch " + TORCH + " with a CUDA autocast kernel",
            **ops,
        },
    })


if __name__ == "__main__":
    torch.set_num_threads(1)
    gpt()
    optimizers()
    cross_entropy()
    promotion()
    operations()
    autocast()
