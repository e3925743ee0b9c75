#!/usr/bin/env python3
"""Runs `trireme score` over the golden prompts and holds logits and continuations against transformers'.

  tools/check_goldens.py --trireme build/trireme --model models/trireme-demo --goldens FILE [--tolerance 2e-2] [-- flags of score]

A continuation may leave the golden one only at a step whose two best logits lie closer than --gap: there the
rounding decides, and both tokens are right. Exit 1 if anything else differs. Standard library only.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--trireme", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--goldens", required=True)
parser.add_argument("--tolerance", type=float, default=2e-2, help="||logits - golden|| / ||golden|| over the golden top 20")
parser.add_argument("--gap", type=float, default=0.5, help="in logits")
parser.add_argument("flags", nargs="*")
args = parser.parse_args()

goldens = json.load(open(args.goldens))
with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as given, tempfile.NamedTemporaryFile("r", suffix=".jsonl") as got:
    for i, p in enumerate(goldens["prompts"]):
        line = {"id": str(i), "token_ids": p["ids"], "max_tokens": goldens["steps"], "top_logits": 200}
        given.write(json.dumps(line) + "\n")
    given.flush()
    command = [args.trireme, "score", "--model", args.model, "--input", given.name, "--output", got.name, *args.flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit {done.returncode}: {done.stderr}")
    results = {r["id"]: r for r in map(json.loads, got)}

worst, bad, left = 0.0, 0, []
for i, p in enumerate(goldens["prompts"]):
    r = results[str(i)]
    logits = dict(map(tuple, r["top_logits"]))
    difference = norm = 0.0
    for token, golden in p["top20"]:
        difference += (logits.get(token, math.inf) - golden) ** 2
        norm += golden ** 2
    error = math.sqrt(difference / norm)
    worst = max(worst, error)
    if not error <= args.tolerance:
        bad += 1
        print(f"prompt {i}: relative error {error:.2e}")
    want, have = [t["id"] for t in p["greedy"]], r["continuation_ids"]
    step = next((s for s, (a, b) in enumerate(zip(want, have)) if a != b), None)
    if step is not None:
        gap = p["greedy"][step]["gap"]
        left.append(gap)
        if gap > args.gap:
            bad += 1
            print(f"prompt {i}: token {have[step]} instead of {want[step]} at step {step}, whose gap is {gap:.2f}")
n = len(goldens["prompts"])
print(f"{n} prompts: worst relative error of logits {worst:.2e} (bar {args.tolerance:.0e}); {n - len(left)} continuations of "
      f"{goldens['steps']} equal, {len(left)} leave at gaps up to {max(left, default=0):.3f}; {bad} bad")
sys.exit(1 if bad else 0)
