"""Training speed on a quiet machine and beside a busy process, by how long OpenMP's threads spin.

  python experiments/reliability/busy.py

Each line is the default model's training (scripts/train.py) in a process of its own, the settings
in turns: tokens per second without the first steps, the median over rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# 300,000 rounds are libgomp's default; alibi_lm sets its own where nothing is set.
SETTINGS = {
    "alibi_lm's": {},
    "libgomp's": {"GOMP_SPINCOUNT": "300000"},
    "no spin": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
ROUNDS, STEPS, SKIPPED = 3, 100, 2  # a line of metrics is ten steps


def tokens_per_second(environment: dict[str, str], folder: str) -> float:
    """The speed of a short training."""
    output = tempfile.mkdtemp(dir=folder)
    settings = [f"optim.steps={STEPS}", "optim.warmup_steps=10", "tracking=off"]
    places = [f"output={output}", f"cache={folder}/cache"]
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *settings, *places],
        env={k: v for k, v in os.environ.items() if "OMP" not in k} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    (curve,) = Path(output).glob("runs/*/metrics.jsonl")
    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    first, last = lines[SKIPPED - 1], lines[-1]
    return float((last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]))


def measure(folder: str) -> dict[str, float]:
    """The median speed of each setting."""
    speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(ROUNDS):
        for name, environment in SETTINGS.items():
            speeds[name].append(tokens_per_second(environment, folder))
    return {name: statistics.median(found) for name, found in speeds.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        tokens_per_second({}, folder)  # tokenizes
        quiet = measure(folder)
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as beside:
            busy = measure(folder)
            beside.kill()
    print("| threads | quiet, tokens/s | beside a busy process | of the quiet speed |")
    print("| --- | --: | --: | --: |")
    for name in SETTINGS:
        share = busy[name] / quiet["libgomp's"]
        print(f"| {name} | {quiet[name]:,.0f} | {busy[name]:,.0f} | {share:.2f} |")
