"""Turn a fairseq checkpoint of the paper's authors into a run folder that evaluate.py takes.

  python scripts/convert.py checkpoint=alibi_wt103_L512.pt dictionary=dict.txt
  python scripts/convert.py checkpoint=alibi_wt103_L512.pt dictionary=dict.txt data.path=FOLDER
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.lengths=[512,1024,3072]

dictionary is the dict.txt that fairseq-preprocess wrote beside the data that the model was trained
on; data is the text that the run will be evaluated on (WikiText-103 by default, from the hub or a
folder). Only tensors, plain containers and a Namespace are created from the checkpoint's pickle.
"""

from alibi_lm.cli import command
from alibi_lm.interop.fairseq import ConvertConfig, convert
from alibi_lm.machine.progress import say


def convert_and_say(config: ConvertConfig) -> None:
    """Convert, then print what the run is and what to do next."""
    run = convert(config)
    facts = run.manifest()
    say(
        f"{run.path}: {facts['n_parameters']:,} parameters, {facts['vocab_size']:,} words, trained "
        f"at {run.config.train_length} for {facts['converted_from']['updates']:,} updates\n"
        f"next: python scripts/evaluate.py run={run.path}"
    )


if __name__ == "__main__":
    command(__doc__, ConvertConfig, convert_and_say, "convert")
