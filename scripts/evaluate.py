"""Evaluate a trained run at any lengths and print its perplexities.

  python scripts/evaluate.py run=outputs/runs/NAME
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.lengths=[64,2048,4096]
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.protocols=[sliding] \
      evaluation.stride=16 evaluation.split=test
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.protocols=[same_targets]
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.attention=[full,window]

Rows are added to results.jsonl in the run folder, token losses to losses/; what is there is not
computed again.
"""

from dataclasses import replace
from pathlib import Path

from alibi_lm.cli import main
from alibi_lm.config import EvaluateConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.machine.progress import say
from alibi_lm.report import summary
from alibi_lm.runs.evaluate import evaluate_run
from alibi_lm.runs.folder import check_data, load_run
from alibi_lm.runs.tracking import track


def evaluate(config: EvaluateConfig) -> None:
    """Open the run and its text, score what is missing, print the rows."""
    run = load_run(Path(config.run))
    data = prepare(run.config.data, run.config.tokenizer, Path(config.cache or run.config.cache))
    check_data(run, data)
    tracking = replace(run.config.tracking, mode=config.tracking.mode or run.config.tracking.mode)
    with track(replace(run.config, tracking=tracking), run.path) as tracker:
        results = evaluate_run(run, data, config.evaluation, config.device, config.backend, tracker)
    say("\n" + summary(results))


if __name__ == "__main__":
    main(__doc__, "evaluate", EvaluateConfig, evaluate)
