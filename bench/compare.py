"""Runs mimco and PyTorch alternately, each in its own process, and writes their figures; called by compare.sh."""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = ["forward", "train", "mimco", "moco_v3"]
TABLE = ("<!-- bench/compare.sh writes from here -->", "<!-- to here -->")


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("name", help="of the results, such as the machine's")
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--batch", default="8,32", type=lambda text: [int(n) for n in text.split(",")])
    p.add_argument("--rounds", type=int, default=3, help="times each side is run")
    p.add_argument("--steps", type=int, default=5, help="steps that are timed in a run")
    p.add_argument("--compile", action="store_true")
    return p.parse_args()


def run(command, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_PROC_BIND="true", OMP_PLACES="cores")
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"left out, exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stderr[-400:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    a = arguments()
    mimco = ROOT / "target" / "release" / "mimco"
    results = ROOT / "bench" / "results"
    results.mkdir(parents=True, exist_ok=True)
    rows, products = [], []
    for precision in ["bf16", "f32"]:
        for step in STEPS:
            for batch in a.batch:
                common = ["--step", step, "--precision", precision, "--batch", batch, "--steps", a.steps, "--threads", a.threads]
                sides = {"mimco": [mimco, "bench", "step", "--json", *common], "eager": [a.python, "bench/pytorch_step.py", *common]}
                if a.compile:
                    sides["compiled"] = [*sides["eager"], "--compile"]
                found = {side: [] for side in sides}
                for _ in range(a.rounds):
                    for side, command in sides.items():
                        found[side] += [r for r in [run(command, a.threads)] if r]
                rows.append({"precision": precision, "step": step, "batch": batch, "runs": found})
                print(line(rows[-1]), flush=True)
        sides = {"mimco": [mimco, "bench", "gemm", "--json", "--precision", precision, "--threads", a.threads],
                 "eager": [a.python, "bench/pytorch_gemm.py", "--precision", precision, "--threads", a.threads]}
        found = {side: [] for side in sides}
        for _ in range(a.rounds):
            for side, command in sides.items():
                found[side] += [r for r in [run(command, a.threads)] if r]
        products.append({"precision": precision, "runs": found})
    info = {"name": a.name, "date": datetime.date.today().isoformat(), "processor": processor(), "threads": a.threads, "system": platform.system()}
    (results / f"{a.name}.json").write_text(json.dumps({**info, "steps": rows, "products": products}, indent=1) + "\n")
    write_table(info, rows, products, a)


def processor():
    try:
        names = [text.split(":")[1].strip() for text in open("/proc/cpuinfo") if text.startswith("model name")]
        flags = next(text for text in open("/proc/cpuinfo") if text.startswith("flags")).split()
        kinds = [flag for flag in ["amx_bf16", "avx512_bf16", "avx512f", "avx2"] if flag in flags]
        return f"{names[0]}, {len(names)} cores, {' '.join(kinds[:2])}"
    except (OSError, StopIteration, IndexError):
        return platform.processor() or "unknown"


def median(runs, key):
    values = [r[key] for r in runs if r.get(key) is not None]
    return statistics.median(values) if values else None


def figure(value, form):
    return "-" if value is None else format(value, form)


def ratio(ours, theirs):
    return None if ours is None or theirs is None else ours / theirs


def line(row):
    runs = row["runs"]
    rates, memory = ({side: median(found, key) for side, found in runs.items()} for key in ["img_per_s", "peak_mib"])
    theirs = [rates[side] for side in runs if side != "mimco" and rates[side] is not None]
    their_memory = [memory[side] for side in runs if side != "mimco" and memory[side] is not None]
    fastest, smallest = max(theirs, default=None), min(their_memory, default=None)
    cells = [
        row["precision"], row["step"], str(row["batch"]), *(figure(rates.get(side), ".2f") for side in ["mimco", "eager", "compiled"]),
        figure(ratio(rates["mimco"], fastest), ".2f"), figure(median(runs["mimco"], "mfu"), ".0%"), figure(memory["mimco"], ".0f"),
        figure(smallest, ".0f"), figure(ratio(memory["mimco"], smallest), ".2f"),
    ]
    return "| " + " | ".join(cells) + " |"


def write_table(info, rows, products, a):
    command = f"bench/compare.sh {a.name} --threads {a.threads} --batch {','.join(map(str, a.batch))} --rounds {a.rounds} --steps {a.steps}"
    command += " --compile" if a.compile else ""
    text = [
        f"ViT-S/16 at 224 px, images per second; {info['processor']}, {a.threads} threads, {info['date']}; medians of {a.rounds} alternating runs of "
        f"{a.steps} steps (`{command}`). *times* compares with the faster PyTorch, *ratio* with the smaller memory, "
        "in MiB; *mfu* is the share of a large product's rate.", "",
        "| | step | batch | mimco | eager | compiled | times | mfu | memory | PyTorch's | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|", *map(line, rows), "",
        "| | product | mimco | packed in advance | torch.mm | times |", "|---|---|---|---|---|---|",
    ]
    for p in products:
        ours, theirs = p["runs"]["mimco"], p["runs"]["eager"]
        for i, product in enumerate(ours[0]["products"] if ours else []):
            plain, packed = (statistics.median(r["products"][i][key]["median"] for r in ours) for key in ["gflops", "gflops_packed"])
            torch = statistics.median(r["products"][i]["gflops"] for r in theirs) if theirs else None
            shape = " x ".join(map(str, product["shape"]))
            text.append(f"| {p['precision']} | {shape} | {plain:.0f} | {packed:.0f} | {figure(torch, '.0f')} | {figure(ratio(plain, torch), '.2f')} |")
    page = ROOT / "docs" / "src" / "engine.md"
    before, _, rest = page.read_text().partition(TABLE[0])
    _, _, after = rest.partition(TABLE[1])
    page.write_text("\n".join([before + TABLE[0], "", *text, "", TABLE[1]]) + after)


main()
