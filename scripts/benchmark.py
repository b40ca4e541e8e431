"""Measure the speed and memory of the schemes, against each other, the paper and other libraries.

  python scripts/benchmark.py
  python scripts/benchmark.py positions=[none,t5] lengths=[512,16384] phases=[evaluation]
  python scripts/benchmark.py 'positions=[none,fox,{kind:rotary,scaling:yarn,factor:4}]'
  python scripts/benchmark.py peers=[x-transformers,transformers]   (requirements-peers.txt)
  python scripts/benchmark.py model=paper dtype=bfloat16 vocab_size=50000 tokens=16384 compile=true

Real training steps and real scoring on random tokens, everything in turns in one process, so that
ratios hold on a machine whose speed drifts. Prints a table and writes it with results.csv and a
figure against the paper's Table 1 into the output folder; rows are written length by length.
"""

from pathlib import Path

from alibi_lm.benchmark.measure import BenchmarkConfig, benchmark
from alibi_lm.cli import command
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.progress import say
from alibi_lm.report.figures import save
from alibi_lm.report.speed import speed_figure, speed_note, speed_table
from alibi_lm.report.tables import markdown


def measure(config: BenchmarkConfig) -> None:
    """Measure, print and write the table, draw the figure."""
    rows = benchmark(config)
    table = f"{speed_note(rows)}\n\n{markdown(speed_table(rows))}\n"
    say("\n" + table)
    folder = Path(config.output)
    write_atomically(folder / "table.md", table)
    written = [folder / "results.csv", folder / "table.md"]
    if figure := speed_figure(rows):
        written += save(figure, folder / "speed")
    say("written: " + ", ".join(map(str, written)))


if __name__ == "__main__":
    command(__doc__, BenchmarkConfig, measure, "benchmark")
