#!/usr/bin/env python3
"""Writes acceptance.json and acceptance.md from what scripts/gpu_acceptance.sh left in a folder.

  gpu_acceptance_summary.py FOLDER DEVICE SECONDS      exit code 1 if a step failed or losses differ
"""
import json
import pathlib
import sys

from test_summary import counts

# How far two trainings of the same precision may be apart after the same steps, relative to the CPU's loss: rounding in
# another order moves a training like a change of one unit roundoff does, and training amplifies it. 2 % is the bound that
# the examples' own precisions are held to.
TOLERANCE = 0.02


def last_loss(path):
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    tail = losses[-max(1, len(losses) // 10):]
    rates = [line.get("tokens_per_s") or line.get("images_per_s") or 0 for line in lines]
    return sum(tail) / len(tail), rates[-1]


def profile_lines(records, simulated):
    """Families of kernels of each benchmarked step, by the device's events."""
    for r in records:
        clock = "the simulated device's made-up clock" if simulated else "events of the device"
        yield from ["", f"Where a step of {r['model']} in {r['precision']} spends its time, by {clock}:", "",
                    "| kernels | share | calls |", "|---|---|---|"]
        for name, row in sorted(r["families"].items(), key=lambda item: -item[1]["share"]):
            yield f"| {name} | {100 * row['share']:.1f} % | {row['calls']} |"


def main(folder, device, seconds):
    out = pathlib.Path(folder)
    simulated = device.startswith("simulated")
    steps = []
    for line in (out / "steps.tsv").read_text().splitlines():
        name, status, took = line.split("\t")
        step = {"step": name, "status": status, "seconds": int(took)}
        if (out / f"{name}.json").exists() and name != "compare":
            step["tests_ran"], step["tests_failed"], step["tests_skipped"] = counts(out / f"{name}.json")
        steps.append(step)
    trainings = []
    for cuda in sorted(out.glob("*_cuda.jsonl")):
        cpu = cuda.with_name(cuda.name.replace("_cuda", "_cpu"))
        if not cpu.exists():
            continue
        (loss, rate), (expected, _) = last_loss(cuda), last_loss(cpu)
        training = {"training": cuda.stem.removesuffix("_cuda"), "loss": loss, "loss_on_cpu": expected,
                    "agrees": abs(loss - expected) <= TOLERANCE * abs(expected)}
        if not simulated:
            training["items_per_s"] = rate
        trainings.append(training)
    failed = [s["step"] for s in steps if s["status"] == "failed"] + [t["training"] for t in trainings if not t["agrees"]]
    records = out / "profile_records.json"
    profile = json.loads(records.read_text()) if records.exists() else []
    result = {"device": device, "simulated": simulated, "seconds": int(seconds), "passed": not failed, "failed": failed,
              "steps": steps, "trainings": trainings,
              "profile": [{key: r[key] for key in ("model", "precision", "batch", "families")} for r in profile]}
    (out / "acceptance.json").write_text(json.dumps(result, indent=1) + "\n")

    text = [f"# GPU acceptance: {'passed' if not failed else 'FAILED'}", "", f"Device: {device}. {seconds} s.", "",
            "| step | result | tests | s |", "|---|---|---|---|"]
    for s in steps:
        tests = f"{s['tests_ran']} ran, {s['tests_failed']} failed, {s['tests_skipped']} skipped" if "tests_ran" in s else ""
        text.append(f"| {s['step']} | {s['status']} | {tests} | {s['seconds']} |")
    text += ["", "| training | loss | on the CPU | agrees within 2 % |" + ("" if simulated else " items/s |"),
             "|---|---|---|---|" + ("" if simulated else "---|")]
    for t in trainings:
        speed = "" if simulated else f" {t['items_per_s']:.0f} |"
        text.append(f"| {t['training']} | {t['loss']:.4f} | {t['loss_on_cpu']:.4f} | {'yes' if t['agrees'] else 'NO'} |{speed}")
    text += profile_lines(profile, simulated)
    (out / "acceptance.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))
    print(f"\nwrote {out}/acceptance.json and acceptance.md")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
