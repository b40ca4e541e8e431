"""Evaluate a trained run at any lengths and print its perplexities.

  python scripts/evaluate.py run=outputs/runs/NAME
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.lengths=[64,2048,4096]
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.split=test
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.protocols=[same_targets]
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.attention=[full,window]
  python scripts/evaluate.py run=outputs/runs/NAME 'evaluation.position={scaling:yarn,factor:8}'
  python scripts/evaluate.py run=outputs/runs/NAME data=text 'data.validation=[other.txt]'
  python scripts/evaluate.py run=/a/colleague/s/run output=outputs/mine

Adds rows to results.jsonl in the run folder and token losses to losses/; what is there is not
computed again. With data= another text is read, by the run's own tokenizer; or the run's own text,
if it has moved. With output= the run's folder is only read.
"""

from dataclasses import replace
from pathlib import Path

from alibi_lm.cli import command
from alibi_lm.machine.progress import say
from alibi_lm.report import summary
from alibi_lm.runs.evaluate import EvaluateConfig, evaluate_run
from alibi_lm.runs.folder import load_run
from alibi_lm.runs.plan import plan_evaluation
from alibi_lm.tracking import track


def evaluate(config: EvaluateConfig) -> None:
    """Open the run and its text, score what is missing, print the rows."""
    run = load_run(Path(config.run), config.cache, config.data)
    member = plan_evaluation(run, config.evaluation, config.device, config.backend)
    rows = run.elsewhere(config.output)
    tracking = run.config.tracking
    tracking = replace(tracking, mode=config.tracking.mode or tracking.mode)
    with track(tracking, rows.path, run.described()) as tracker:
        results = evaluate_run(member.run, member.wanted, tracker, rows)
    say("\n" + summary(results))


if __name__ == "__main__":
    command(__doc__, EvaluateConfig, evaluate, "evaluate")
