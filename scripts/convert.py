"""Turn a fairseq checkpoint of the paper's authors into a run folder that evaluate.py takes.

  python scripts/convert.py checkpoint=alibi_wt103_L512.pt dictionary=dict.txt
  python scripts/convert.py checkpoint=alibi_wt103_L512.pt dictionary=dict.txt data.path=FOLDER
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.lengths=[512,1024,3072]

dictionary is the dict.txt that fairseq-preprocess wrote beside the data that the model was trained
on; data is the text that the run will be evaluated on (WikiText-103 by default, from the hub or a
folder). Of the checkpoint's pickle nothing but tensors, containers and a Namespace is created.
"""

from alibi_lm.cli import main
from alibi_lm.config import ConvertConfig
from alibi_lm.interop.fairseq import convert
from alibi_lm.machine.progress import say


def convert_and_say(config: ConvertConfig) -> None:
    """Convert, then say what there is and what to do with it."""
    run = convert(config)
    facts = run.manifest()
    say(
        f"{run.path}: {facts['n_parameters']:,} parameters, {facts['vocab_size']:,} words, trained "
        f"at {run.config.train_length} for {facts['converted_from']['updates']:,} updates\n"
        f"next: python scripts/evaluate.py run={run.path}"
    )


if __name__ == "__main__":
    main(__doc__, "convert", ConvertConfig, convert_and_say)
