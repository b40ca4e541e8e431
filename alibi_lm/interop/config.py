"""Settings of convert.py: where a model comes from, and the text that it will be evaluated on."""

from dataclasses import dataclass
from pathlib import Path

from alibi_lm.data.corpus import DataConfig
from alibi_lm.evaluation.protocols import BOS
from alibi_lm.machine.names import DTYPE_MEANING, DTYPES
from alibi_lm.positions import PositionConfig
from alibi_lm.settings import default_of, out_of_bounds, setting

# Settings that only one source has, and those that it must be given.
OF_SOURCE = {
    "fairseq": ("checkpoint", "dictionary"),
    "huggingface": (
        *("model", "revision", "gguf", "trust_remote_code"),
        *("dtype", "bos", "end", "train_length"),
    ),
}


@dataclass
class ConvertConfig:
    """A model that was trained elsewhere, and the text that it will be evaluated on."""

    source: str = setting("fairseq", "where the model comes from", choices=tuple(OF_SOURCE))
    checkpoint: str | None = setting(None, "fairseq: the .pt file")
    dictionary: str | None = setting(None, "fairseq: the dict.txt that its words are numbered by")
    model: str | None = setting(None, "huggingface: owner/name on the hub, or a folder")
    revision: str | None = setting(None, "huggingface: branch, tag or commit; null: the newest")
    gguf: str | None = setting(None, "huggingface: name of the GGUF file that holds the weights")
    trust_remote_code: bool = setting(False, "huggingface: run the code that comes with the model")
    dtype: str = setting("float32", f"huggingface: {DTYPE_MEANING}", choices=DTYPES)
    bos: str | None = setting(
        None,
        "huggingface: where the beginning-of-text token stands; null: in every window if the "
        "tokenizer adds one by itself, else at the start of the text",
        choices=BOS,
    )
    end: str | None = setting(
        None, "huggingface: the token between documents; null: its own, or a usual one"
    )
    train_length: int | None = setting(
        None,
        "huggingface: tokens that it was trained at; null: as its config.json says",
        at_least=1,
    )
    position: PositionConfig | None = setting(
        None, "its scheme; null: fairseq's alibi, huggingface's as its config.json says"
    )
    data: DataConfig | None = setting(
        None, "the text; null: fairseq's wikitext103, huggingface's stdlib"
    )
    output: str = setting("outputs", "folder for runs")
    cache: str = setting("outputs/cache", "folder for token files, shared by runs")
    run: str | None = setting(None, "name of the run folder; null: made from the settings")

    def problems(self) -> list[str]:
        """There must be a model, and nothing that another source would have."""
        problems = out_of_bounds(self)
        for source, names in OF_SOURCE.items():
            for field in self.__dataclass_fields__.values():
                value = getattr(self, field.name)
                if field.name in names and source != self.source and value != default_of(field):
                    problems.append(
                        f"{field.name}: given {value}, but source={self.source} has no such; "
                        f"set source={source}"
                    )
        if self.source == "fairseq":
            for key, example in (("checkpoint", "alibi_wt103_L512.pt"), ("dictionary", "dict.txt")):
                given = getattr(self, key)
                if not given:
                    problems.append(f"{key}: not given; name a file, e.g. {key}={example}")
                elif not Path(given).is_file():
                    problems.append(f"{key}: given {given}, which is not a file")
        elif not self.model:
            problems.append("model: not given; name one, e.g. model=HuggingFaceTB/SmolLM2-135M")
        return problems
