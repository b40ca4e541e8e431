"""Train and evaluate every combination of the settings given, then write one report.

  python scripts/sweep.py position=none,alibi train_length=64,128 seed=0,1
  python scripts/sweep.py experiment=quickstart                  (what `make repro` runs)
  python scripts/sweep.py experiment=quickstart seed=0,1,2 output=outputs/three_seeds
  python scripts/sweep.py position=alibi,t5 data=text 'data.train=[books/*]' data.held_out=0.05

  python scripts/sweep.py hydra/sweeper=optuna 'position.scale=interval(0.1,8)' position=alibi

Commas make a sweep (Hydra's multirun); lists stand in brackets. What is already trained or
evaluated under the same settings is not done again, so run a sweep that broke again as it was.
Writes OUTPUT/runs/*, and the report into OUTPUT: report.html, tables, figures, rows as CSV.
hydra/sweeper=optuna searches instead, for the smallest mean loss of what is evaluated; its runs are
reported on by report.py.
"""

from alibi_lm.cli import command
from alibi_lm.config import Config
from alibi_lm.runs.sweep import Sweep

if __name__ == "__main__":
    command(__doc__, Config, Sweep())
