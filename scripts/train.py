"""Train one model and print its run folder.

  python scripts/train.py position=alibi train_length=64
  python scripts/train.py position=rotary model=small optim.steps=2000 optim.tokens_per_step=8192
  python scripts/train.py data=wikitext103 data.path=FOLDER tokenizer=words
  torchrun --nproc-per-node=2 scripts/train.py position=t5 parallel=fsdp

The run folder is OUTPUT/runs/NAME and holds config.yaml, manifest.json, metrics.jsonl and
model.safetensors; scripts/evaluate.py run=FOLDER scores it. The same settings find the same folder
again: a run that was stopped or killed continues from its last checkpoint, with the same result as
if it had not been; one that is trained is not trained again.
"""

from alibi_lm.cli import command
from alibi_lm.config import Config
from alibi_lm.runs.plan import plan_run
from alibi_lm.runs.train import train_run
from alibi_lm.tracking import track


def train(config: Config) -> None:
    """Check, tokenize what is needed, then train."""
    run = plan_run(config)
    with track(config.tracking, run.path, run.described()) as tracker:
        train_run(run, tracker)


if __name__ == "__main__":
    command(__doc__, Config, train)
