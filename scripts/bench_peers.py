#!/usr/bin/env python3
"""binade's training steps against PyTorch's: same model, batch, dtype and threads, round by round in turns.

Each framework runs in a process of its own that waits while the others work. The ratio is that of the medians of the
step times; its spread, the quartiles of the rounds' own ratios. Started by scripts/bench_peers.sh.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

GPT = {"gpt2": dict(layers=12, heads=12, channels=768, vocabulary=50257),
       "char": dict(layers=6, heads=6, channels=384, vocabulary=96)}
MLP_SIZES = 784, 256, 10
SHAPES = {"gpt2": ["4x64", "4x256"], "char": ["8x256", "16x256"], "mlp": ["128x1"], "tiny-op": ["1x1"]}
TINY_OPS = 1000
PROCESSORS = os.sched_getaffinity(0)  # before torch is loaded: OMP_PROC_BIND then ties this process to one of them


# ---- the PyTorch side: the same step as tests/bench/train/step.cpp ----------------------------------------------------

def torch_step(model_name, precision, batch, seq, compiled, device, vocabulary=None):
    """A function that runs one training step and returns its seconds."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(1)
    if model_name == "tiny-op":
        x = torch.ones(10, requires_grad=True)
        gradient = torch.ones(10)

        def adds():
            start = time.perf_counter()
            y = x + x
            for _ in range(TINY_OPS - 1):
                y = y + x
            y.backward(gradient)
            return time.perf_counter() - start
        return adds

    class Block(nn.Module):
        def __init__(self, channels, heads):
            super().__init__()
            self.heads = heads
            self.ln_1, self.ln_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
            self.fc, self.mlp_proj = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

        def attention(self, x):
            rows, length, channels = x.shape
            q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2)
                       for part in self.qkv(x).split(channels, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.proj(y.transpose(1, 2).reshape(rows, length, channels))

        def forward(self, x):
            x = x + self.attention(self.ln_1(x))
            return x + self.mlp_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self, layers, heads, channels, vocabulary):
            super().__init__()
            positions = max(seq, 1024) if model_name == "gpt2" else seq
            self.wte, self.wpe = nn.Embedding(vocabulary, channels), nn.Embedding(positions, channels)
            self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(layers))
            self.ln_f = nn.LayerNorm(channels)
            for p in self.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, 0, 0.02)

        def forward(self, tokens):
            x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
            for block in self.blocks:
                x = block(x)
            return F.linear(self.ln_f(x), self.wte.weight)

    if model_name == "mlp":
        model = nn.Sequential(nn.Linear(*MLP_SIZES[:2]), nn.ReLU(), nn.Linear(*MLP_SIZES[1:]))
        inputs, targets = torch.rand(batch, MLP_SIZES[0]), torch.randint(0, MLP_SIZES[-1], (batch,))
    else:
        model = Gpt(**dict(GPT[model_name], **({"vocabulary": vocabulary} if vocabulary else {})))
        inputs, targets = (torch.randint(0, GPT[model_name]["vocabulary"], (batch, seq)) for _ in range(2))
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")

    def step():
        start = time.perf_counter()
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            logits = model(inputs)
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start
    return step


def serve(args):
    """bench_train --serve in Python."""
    batch, seq = (int(n) for n in args.shapes[0].split("x"))
    step = torch_step(args.models[0], args.precisions[0], batch, seq, args.compile, args.device,
                      args.peer_vocabulary)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        print(f"{sum(step() for _ in range(int(line))):.9f}", flush=True)


# ---- the measurement --------------------------------------------------------------------------------------------------

class Peer:
    """A process that has said "ready" and answers a number of steps by the seconds they took."""

    def __init__(self, name, command, threads):
        self.name, self.times = name, []
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), TORCHINDUCTOR_COMPILE_THREADS=str(threads))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                                        env=environment, preexec_fn=lambda: os.sched_setaffinity(0, PROCESSORS))
        if self.process.stdout.readline().strip() != "ready":
            self.process.wait()
            raise RuntimeError(f"{name} did not start: {' '.join(command)}")

    def seconds_per_step(self, steps):
        self.process.stdin.write(f"{steps}\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended with code {self.process.wait()}")
        return float(answer) / steps

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(args, model, precision, shape):
    batch, seq = shape.split("x")
    ours = [args.bench, "--serve", "--model", model, "--precision", precision, "--batch", batch, "--seq", seq,
            "--device", args.device, "--count", str(TINY_OPS)]
    theirs = [sys.executable, os.path.abspath(__file__), "--serve", "--models", model, "--precisions", precision,
              "--device", args.device, "--shapes", shape]
    if args.peer_vocabulary:
        theirs += ["--peer-vocabulary", str(args.peer_vocabulary)]
    if args.graph:
        ours.append("--graph")
    peers = [Peer("binade", ours, args.threads), Peer("eager", theirs, args.threads)]
    if args.compile and model != "tiny-op":
        try:
            peers.append(Peer("compile", theirs + ["--compile"], args.threads))
        except RuntimeError as error:
            print(f"  torch.compile does not work here: {error}", file=sys.stderr)
    steps = {peer: max(1, round(args.seconds / max(peer.seconds_per_step(1), 1e-6))) for peer in peers}
    for turn in range(args.rounds):
        for peer in peers[turn % len(peers):] + peers[:turn % len(peers)]:  # nobody is always first
            peer.times.append(peer.seconds_per_step(steps[peer]))
    for peer in peers:
        peer.close()
    return report(args, model, precision, shape, peers)


def report(args, model, precision, shape, peers):
    batch, seq = (int(n) for n in shape.split("x"))
    items = {"mlp": batch, "tiny-op": TINY_OPS}.get(model, batch * seq)
    medians = {peer.name: statistics.median(peer.times) for peer in peers}
    best = min(peers[1:], key=lambda peer: medians[peer.name])
    rounds = [b / a for a, b in zip(peers[0].times, best.times)]  # > 1: binade is faster
    low, _, high = statistics.quantiles(rounds, n=4) if len(rounds) > 1 else rounds * 3
    ratio = medians[best.name] / medians["binade"]
    unit = {"mlp": "images/s", "tiny-op": "operations/s"}.get(model, "tokens/s")
    print(f"{model} {precision} {shape}: binade / PyTorch {best.name} = {ratio:.2f} [{low:.2f}, {high:.2f}]   "
          + ", ".join(f"{name} {items / seconds:.0f}" for name, seconds in medians.items()) + f" {unit}", flush=True)
    return {"model": model, "precision": precision, "shape": shape, "device": args.device, "graph": args.graph,
            "peer_vocabulary": args.peer_vocabulary, "threads": args.threads, "rounds": args.rounds,
            "unit": unit, "per_second": {name: items / seconds for name, seconds in medians.items()},
            "step_ms": {peer.name: [1e3 * t for t in peer.times] for peer in peers},
            "best_peer": best.name, "ratio": ratio, "ratio_quartiles": [low, high]}


def main():
    names = lambda text: text.split(",")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=names, default=["gpt2", "char", "mlp", "tiny-op"], help="comma-separated")
    parser.add_argument("--precisions", type=names, default=["fp32", "bf16"], help="of fp32, bf16, fp16")
    parser.add_argument("--shapes", type=names, help="batch x time, such as 4x64,4x256; default: each model's own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of both sides")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="that each peer works per round, at least one step")
    parser.add_argument("--threads", type=int, default=len(PROCESSORS))
    parser.add_argument("--compile", action="store_true", help="torch.compile too; the faster one counts")
    parser.add_argument("--peer-vocabulary", type=int, metavar="N",
                        help="PyTorch's GPTs with N classes, as 50304 instead of gpt2's 50257, which its users pad by hand")
    parser.add_argument("--graph", action="store_true", help="ours as a CUDA graph")
    parser.add_argument("--json", help="write the records to this file")
    parser.add_argument("--bench", default="build/release/bench/bench_train", help="the bench_train to run")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    import torch
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    print(f"PyTorch {torch.__version__}, {where}", flush=True)
    records = []
    for model in args.models:
        for precision in args.precisions if model != "tiny-op" else ["fp32"]:
            for shape in args.shapes or SHAPES[model]:
                records.append(dict(measure(args, model, precision, shape), torch=torch.__version__))
                if args.json:  # what is there so far survives an interruption
                    with open(args.json, "w", encoding="utf-8") as file:
                        json.dump(records, file, indent=1)
                        file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
