"""Train and evaluate a run again from its folder, and compare everything with what is there.

  python scripts/reproduce.py run=outputs/repro/runs/NAME

Takes config, seed, threads and processes from the folder, and the text from where it was; a text
that has changed is refused. Prints what differs around the run (commit, packages, machine) and,
for metrics, weights, results and token losses, `identical` or the first difference. Ends with
status 0 only if all are identical, bit for bit.
"""

from alibi_lm.cli import FailedError, command
from alibi_lm.machine.progress import say
from alibi_lm.runs.reproduce import ReproduceConfig, reproduce


def run_again(config: ReproduceConfig) -> None:
    """Make the run again, print how it compares."""
    made = reproduce(config)
    say(f"\n{config.run}, and again {made.again.path}")
    for circumstance in made.circumstances:
        say(f"  not the same: {circumstance}")
    for part in made.comparisons:
        verdict = f"differs: {part.difference}" if part.difference else "identical"
        say(f"  {part.part:<18} {part.compared:>20}  {verdict}")
    say("reproduced bit for bit" if made.identical else "not identical")
    if not made.identical:
        raise FailedError


if __name__ == "__main__":
    command(__doc__, ReproduceConfig, run_again, "base")
