"""Evaluate a trained run at any lengths and print its perplexities.

  python scripts/evaluate.py run=outputs/runs/NAME
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.lengths=[64,2048,4096]
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.split=test
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.protocols=[same_targets]
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.attention=[full,window]
  python scripts/evaluate.py run=outputs/runs/NAME 'evaluation.position={scaling:yarn,factor:8}'

Adds rows to results.jsonl in the run folder and token losses to losses/; what is there is not
computed again.
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
    run = load_run(Path(config.run), config.cache)
    member = plan_evaluation(run, config.evaluation, config.device, config.backend)
    tracking = run.config.tracking
    tracking = replace(tracking, mode=config.tracking.mode or tracking.mode)
    with track(tracking, run.path, run.described()) as tracker:
        results = evaluate_run(member.run, member.wanted, tracker)
    say("\n" + summary(results))


if __name__ == "__main__":
    command(__doc__, EvaluateConfig, evaluate, "evaluate")
