"""Draw what positional schemes do: a matrix for each head, the attention left for a far token.

  python scripts/bias.py sources=[t5,alibi,fire,fox]
  python scripts/bias.py 'sources=[rotary,{kind:rotary,scaling:yarn,factor:8}]'
  python scripts/bias.py 'sources=[outputs/repro/runs/*-t5-*,outputs/repro/runs/*-alibi-*]'

Takes the folders of trained runs and the names of schemes, any number, side by side. A scheme that
looks at the tokens is shown on a real text: a run's own. A learned one by name alone is shown with
its initial values. Writes bias.png and bias.svg into the output folder.
"""

import glob
from pathlib import Path
from typing import Any

from alibi_lm.cli import command
from alibi_lm.machine.progress import say
from alibi_lm.report.figures import save
from alibi_lm.runs.biases import BiasConfig, bias_figure, bias_matrix


def draw(config: BiasConfig) -> None:
    """Read the biases, draw them."""
    sources: list[Any] = []
    for given in config.sources:
        sources += sorted(glob.glob(given)) or [given] if isinstance(given, str) else [given]
    biases = [
        bias_matrix(source, config.length, config.n_heads, config.layer) for source in sources
    ]
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    say("written: " + ", ".join(map(str, save(bias_figure(biases), folder / "bias"))))


if __name__ == "__main__":
    command(__doc__, BiasConfig, draw, "base")
