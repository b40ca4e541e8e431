"""Train one model and print its run folder.

  python scripts/train.py position=alibi train_length=64
  python scripts/train.py position=rotary model=small optim.steps=2000 optim.tokens_per_step=8192
  python scripts/train.py data=wikitext103 data.path=FOLDER tokenizer=words
  torchrun --nproc-per-node=2 scripts/train.py position=t5 parallel=fsdp

The run folder is OUTPUT/runs/NAME and holds config.yaml, manifest.json, metrics.jsonl and
model.safetensors; scripts/evaluate.py run=FOLDER scores it. The same settings find the same folder
again: a run that was stopped or killed goes on from its last checkpoint, and ends as if it had not
been; one that is trained is not trained again.
"""

from pathlib import Path

from alibi_lm.cli import main
from alibi_lm.config import Config
from alibi_lm.data.tokens import prepare
from alibi_lm.runs.folder import find_run
from alibi_lm.runs.tracking import track
from alibi_lm.runs.train import train_run


def train(config: Config) -> None:
    """Tokenize what is needed, then train."""
    data = prepare(config.data, config.tokenizer, Path(config.cache))
    with track(config, find_run(config, data).path) as tracker:
        train_run(config, data, tracker)


if __name__ == "__main__":
    main(__doc__, "config", Config, train)
