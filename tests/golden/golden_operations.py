"""ops.safetensors: results and gradients of single operations."""
import json

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from golden_files import Rng, write_safetensors


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
