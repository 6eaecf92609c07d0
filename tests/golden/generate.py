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

import torch
import torch.nn.functional as F

from golden_files import TORCH, Rng, write_json, write_safetensors
from golden_operations import operations

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
