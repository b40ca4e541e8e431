"""Make a run folder, which evaluate.py takes, of a model that was trained elsewhere.

  python scripts/convert.py source=huggingface model=HuggingFaceTB/SmolLM2-135M
  python scripts/convert.py source=huggingface model=FOLDER data=text 'data.validation=[book.txt]'
  python scripts/convert.py source=huggingface model=FOLDER gguf=model.Q4_1.gguf
  python scripts/convert.py checkpoint=alibi_wt103_L512.pt dictionary=dict.txt \
      data=wikitext103 data.path=FOLDER
  python scripts/evaluate.py run=outputs/runs/NAME evaluation.lengths=[512,1024,3072]

source=huggingface: any causal language model of transformers, from the hub or a folder. Its weights
stay where they are and its tokenizer is its own; the first time it is read whole and checked.
source=fairseq: a checkpoint of the paper's authors, whose weights are copied. dictionary is the
dict.txt that fairseq-preprocess wrote beside the data that it was trained on. Only tensors, plain
containers and a Namespace are created from the checkpoint's pickle.
data is the text that the run will be evaluated on; evaluate.py data= reads others.
"""

from alibi_lm.cli import command
from alibi_lm.interop import fairseq, huggingface
from alibi_lm.interop.config import ConvertConfig
from alibi_lm.machine.progress import say


def convert_and_say(config: ConvertConfig) -> None:
    """Convert, then print what the run is and what to do next."""
    convert = {"fairseq": fairseq.convert, "huggingface": huggingface.convert}[config.source]
    run = convert(config)
    facts, settings = run.manifest(), run.config
    say(
        f"{run.path}: {facts['n_parameters']:,} parameters, {facts['vocab_size']:,} tokens, "
        f"position={settings.position.kind}, trained at {settings.train_length:,}\n"
        f"next: python scripts/evaluate.py run={run.path}"
    )


if __name__ == "__main__":
    command(__doc__, ConvertConfig, convert_and_say, "convert")
