"""Draw what positional biases look like: a matrix for each head, and the attention left afar.

  python scripts/bias.py t5 alibi
  python scripts/bias.py outputs/repro/runs/*-t5-* outputs/repro/runs/*-alibi-* --length 256

Takes the folders of trained runs and the names of schemes, any number, side by side. A learned bias
by name alone is shown with its initial values. Writes bias.png and bias.svg into the output folder.
"""

import argparse
from pathlib import Path

from alibi_lm.cli import run_cleanly
from alibi_lm.errors import UserError
from alibi_lm.machine.progress import say
from alibi_lm.report.figures import save
from alibi_lm.runs.biases import bias_figure, bias_matrix


def main() -> None:
    """Read the biases, draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", help="run folders, or names of schemes")
    parser.add_argument("--length", type=int, default=128, help="positions shown (default 128)")
    parser.add_argument("--heads", type=int, default=8, help="of schemes by name (default 8)")
    parser.add_argument("--output", type=Path, default=Path("outputs/bias"), help="folder")
    arguments = parser.parse_args()

    def draw() -> None:
        for option, allowed in {"length": range(2, 2049), "heads": range(1, 65)}.items():
            if (given := getattr(arguments, option)) not in allowed:
                limits = f"from {allowed[0]} to {allowed[-1]}"
                raise UserError(f"--{option}: given {given}, but it must be {limits}")
        sources = arguments.sources
        biases = [bias_matrix(source, arguments.length, arguments.heads) for source in sources]
        arguments.output.mkdir(parents=True, exist_ok=True)
        paths = save(bias_figure(biases), arguments.output / "bias")
        say("written: " + ", ".join(map(str, paths)))

    run_cleanly(draw)


if __name__ == "__main__":
    main()
