"""The configuration of a run: its parts put together, and the checks between them.

YAML files and the command line only set values; dataclasses decide which keys exist, their types,
bounds and defaults, and stand in the file of the part that they set. `from_hydra` turns what Hydra
composed into a `Config` or says, in one line for each problem, what is wrong and what is allowed.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from alibi_lm.attention import BACKEND_MEANING, BACKENDS
from alibi_lm.data.corpus import DataConfig
from alibi_lm.data.sources.stdlib import StdlibConfig
from alibi_lm.data.tokenizers import BpeConfig, TokenizerConfig
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.machine.names import DEVICE_MEANING, DEVICES, DTYPE_MEANING, DTYPES
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.huggingface import HuggingfaceConfig
from alibi_lm.positions import PositionConfig, Sizes
from alibi_lm.positions.alibi import AlibiConfig
from alibi_lm.settings import REGISTRIES, out_of_bounds, setting, unknown
from alibi_lm.tracking import TrackingConfig
from alibi_lm.training.optim import AdamwConfig, OptimConfig
from alibi_lm.training.parallel import PARALLEL


@dataclass
class RunConfig:
    """What is set of every run, whoever trained it: what evaluation needs to know."""

    position: PositionConfig = setting(AlibiConfig, "the positional scheme")
    data: DataConfig = setting(StdlibConfig, "the corpus", identity=False)
    tokenizer: TokenizerConfig = setting(BpeConfig, "the tokenizer", identity=False)
    evaluation: EvaluationConfig = setting(EvaluationConfig, "the evaluation", identity=False)
    tracking: TrackingConfig = setting(TrackingConfig, "what W&B gets", identity=False)
    train_length: int = setting(64, "tokens per training sequence (L in the paper)", at_least=1)
    seed: int = setting(0, "decides initial weights, batches and dropout", at_least=0, below=2**32)
    dtype: str = setting("float32", DTYPE_MEANING, choices=DTYPES)
    device: str = setting("auto", DEVICE_MEANING, choices=DEVICES, identity=False)
    backend: str = setting("auto", BACKEND_MEANING, choices=("auto", *BACKENDS), identity=False)
    deterministic: bool | None = setting(
        None,
        "same numbers on each run of a machine; null: on a CPU yes, on a GPU no",
        identity=False,
    )
    output: str = setting("outputs", "folder for runs and for the files of a sweep", identity=False)
    cache: str = setting("outputs/cache", "folder for token files, shared by runs", identity=False)
    run: str | None = setting(
        None, "name of the run folder; null: made from the settings", identity=False
    )

    def problems(self) -> list[str]:
        """Every problem of each part that is read."""
        problems = out_of_bounds(self)
        for part in (self.tokenizer, self.evaluation, self.tracking):
            problems += part.problems()
        for key in ("output", "report", "cache"):
            if getattr(self, key, None) == "":
                problems.append(f"{key}: given '', but it must name a folder")
        if self.run is not None and (self.run in ("", "..") or Path(self.run).name != self.run):
            given = self.run or "''"
            problems.append(f"run: given {given}, but it must be a name; output= is its folder")
        return problems

    @property
    def sizes(self) -> Sizes:
        """What a positional scheme knows of the model."""
        raise NotImplementedError

    @property
    def train_tokens(self) -> int | None:
        """Tokens that it was trained on; None if that is not known."""
        return None

    @property
    def bos_token(self) -> str | None:
        """The token that a text begins with; None if it was trained without one."""
        return None


@dataclass
class PretrainedConfig(RunConfig):
    """A run that others trained: a model of transformers, and its evaluation."""

    pretrained: HuggingfaceConfig = setting(HuggingfaceConfig, "the model")
    dtype: str = setting("float32", DTYPE_MEANING, choices=DTYPES, identity=False)  # of its rows

    @property
    def sizes(self) -> Sizes:
        """As its own configuration says."""
        return self.pretrained.sizes(self.train_length)

    @property
    def bos_token(self) -> str | None:
        """Its tokenizer's."""
        return self.pretrained.bos_token


@dataclass
class Config(RunConfig):
    """One run: a model, its training, and its evaluation."""

    model: ModelConfig = setting(ModelConfig, "the decoder's sizes")
    optim: OptimConfig = setting(AdamwConfig, "the training recipe")
    start: str | None = setting(
        None,
        "folder of a trained run: train on from its weights, by another scheme if one is set",
        identity=False,
    )
    compile: bool = setting(
        False, "torch.compile the blocks for training: a slow first step", identity=False
    )
    checkpointing: bool = setting(
        False, "recompute blocks in the backward pass: less memory, slower", identity=False
    )
    parallel: str = setting(
        "ddp",
        "with torchrun; ddp: each process holds the whole model; fsdp: a part of it",
        choices=PARALLEL,
        identity=False,
    )
    checkpoint_seconds: float = setting(
        120.0, "time between checkpoints: the most that a kill can cost", at_least=0, identity=False
    )
    report: str | None = setting(None, "folder for a sweep's report; null: output", identity=False)

    def problems(self) -> list[str]:
        """Every problem of each part and between parts."""
        problems = super().problems()
        for part in (self.model, self.data, self.optim):
            problems += part.problems()
        if not problems:
            problems += self.position.problems(self.sizes)
            problems += self._batch_problems()
        if not problems:
            problems += self.evaluation.length_problems(self.train_length)
        return problems

    @property
    def sizes(self) -> Sizes:
        """Those of the decoder."""
        return self.model.sizes(self.train_length)

    @property
    def train_tokens(self) -> int:
        """Tokens of all steps."""
        return self.optim.train_tokens

    def _batch_problems(self) -> list[str]:
        if self.optim.tokens_per_step % self.train_length:
            return [
                f"optim.tokens_per_step: given {self.optim.tokens_per_step}, but it must be a "
                f"multiple of train_length = {self.train_length}"
            ]
        return self.sharing_problems(n_processes=1)

    def sharing_problems(self, n_processes: int) -> list[str]:
        """Why the sequences of a step cannot be divided among processes and passes."""
        all_of_them = (
            f"{self.sequences_per_step} sequences of a step (optim.tokens_per_step / train_length)"
        )
        if self.sequences_per_step % n_processes:
            return [f"{n_processes} processes cannot share the {all_of_them} equally"]
        micro = self.optim.micro_batch_size
        if micro is not None and self.sequences_per_step // n_processes % micro:
            share = f", {self.sequences_per_step // n_processes} per process"
            return [
                f"optim.micro_batch_size: given {micro}, but it must divide the {all_of_them}"
                + (share if n_processes > 1 else "")
            ]
        return []

    @property
    def sequences_per_step(self) -> int:
        """Sequences of one optimizer update."""
        return self.optim.tokens_per_step // self.train_length

    def grad_accum_steps(self, n_processes: int = 1) -> int:
        """Forward passes of one optimizer update, of each process."""
        share = self.sequences_per_step // n_processes
        return share // (self.optim.micro_batch_size or share)


def schema(kind: type[Any]) -> DictConfig:
    """The keys and types of a command's settings, as Hydra composes values into them.

    A part that comes in kinds has the keys of its base class until a kind is chosen.
    """
    node = OmegaConf.structured(kind)
    for field in dataclasses.fields(kind):
        if field.name in REGISTRIES and node[field.name] is not None:
            node[field.name] = OmegaConf.structured(field.type)
    assert isinstance(node, DictConfig)
    return node


def register_schema(kind: type[Any]) -> None:
    """Tell Hydra the types, so that it refuses what does not fit, and what can be chosen."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema(kind))
    for group, registry in REGISTRIES.items():
        for name, node in registry.nodes.items():
            store.store(group=group, name=name, node=node)


ConfigT = TypeVar("ConfigT")


def from_hydra(composed: DictConfig, kind: type[ConfigT]) -> ConfigT:
    """The typed configuration, or a SettingsError with every problem that it has."""
    if OmegaConf.get_type(composed) is not kind:
        raise UserError(
            "the configuration has no types; begin it with 'defaults: [config, _self_]'"
        )
    composed = composed.copy()
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra", None)
    # `+key=value` gets a key past Hydra's own check, so the keys are compared here.
    if surplus := _surplus(composed, kind):
        raise SettingsError(surplus)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, kind)
    if problems := config.problems():  # type: ignore[attr-defined]
        raise SettingsError(problems)
    return config


def _surplus(composed: DictConfig, kind: type[Any], prefix: str = "") -> list[str]:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    problems = []
    for key in composed:
        if key not in fields:
            problems.append(unknown("setting", prefix + str(key), [prefix + f for f in fields]))
        elif OmegaConf.is_dict(composed[key]):
            inner = OmegaConf.get_type(composed[key])
            if dataclasses.is_dataclass(inner):
                problems += _surplus(composed[key], inner, f"{prefix}{key}.")
    return problems


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values, as they are written to a run's config.yaml; `kind` names each part's kind."""
    values = dataclasses.asdict(config)
    for group in REGISTRIES:
        if group in values:
            values[group] = {"kind": getattr(config, group).kind} | values[group]
    return values


def from_dict(values: dict[str, Any]) -> Config | PretrainedConfig:
    """The configuration that `to_dict` wrote; raises a SettingsError or OmegaConf's own errors."""
    problems = []
    typed: dict[str, Any] = dict(values)
    made: type[Config | PretrainedConfig] = PretrainedConfig if "pretrained" in values else Config
    for group, registry in REGISTRIES.items():
        if group not in {field.name for field in dataclasses.fields(made)}:
            continue
        part = dict(values.get(group, {}))
        kind = part.pop("kind", None)
        if kind not in registry.settings:
            problems.append(
                unknown(f"{group}.kind", str(kind), list(registry.settings))
                + "; for one of your own, name its file in ALIBI_LM_PLUGINS"
            )
        else:
            typed[group] = OmegaConf.merge(OmegaConf.structured(registry.settings[kind]), part)
    if problems:
        raise SettingsError(problems)
    merged = OmegaConf.merge(schema(made), typed)
    assert isinstance(merged, DictConfig)
    return from_hydra(merged, made)
