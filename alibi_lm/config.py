"""Every setting of a run, typed, with its meaning beside it.

YAML files and the command line only set values; these dataclasses decide which keys exist, their
types, bounds and defaults. `from_hydra` turns what Hydra composed into a `Config` or says, in one
line for each problem, what is wrong and what is allowed.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from alibi_lm.attention import BACKENDS
from alibi_lm.benchmark.rows import PHASES
from alibi_lm.data.corpus import SPLITS, DataConfig
from alibi_lm.data.sources import SOURCES
from alibi_lm.data.tokenizers import TOKENIZERS, TokenizerConfig
from alibi_lm.errors import SettingsError
from alibi_lm.evaluation.protocols import PROTOCOLS
from alibi_lm.positions import SCHEMES, PositionConfig
from alibi_lm.settings import missing, out_of_bounds, setting, unknown

ATTENTION = ("full", "window")
DTYPES = ("float32", "bfloat16", "float16")
DTYPE_MEANING = "bfloat16, float16: matrix products under autocast"
INITS = ("xavier", "fairseq")
DEVICES = ("auto", "cpu", "cuda")
PEERS = ("x-transformers", "transformers")  # what a benchmark can be asked to measure beside ours
PARALLEL = ("ddp", "fsdp")
TRACKING = ("offline", "online", "off")  # offline: kept in the run folder, for `wandb sync`
BACKEND_MEANING = "how attention is computed; auto: the fastest for the scheme and device"


@dataclass
class ModelConfig:
    """The decoder's sizes."""

    n_layers: int = setting(2, "Transformer blocks", at_least=1)
    n_heads: int = setting(4, "attention heads", at_least=1)
    d_model: int = setting(192, "width of the residual stream", at_least=1)
    d_ff: int = setting(768, "width of the feed-forward layers", at_least=1)
    dropout: float = setting(
        0.0, "dropout on embeddings and on what each layer adds", at_least=0, below=1
    )
    attention_dropout: float = setting(0.0, "dropout on attention weights", at_least=0, below=1)
    activation_dropout: float = setting(0.0, "dropout after the ReLU", at_least=0, below=1)
    final_norm: bool = setting(True, "normalise before the softmax (the paper's model does not)")
    init: str = setting("xavier", "initial weights; fairseq: as the paper's", choices=INITS)
    cutoffs: list[int] = setting(
        [], "adaptive softmax: first word of each band but the first; [] for one matrix", at_least=1
    )
    cutoff_factor: int = setting(4, "a band's vectors are as much narrower", at_least=1)
    softmax_dropout: float = setting(
        0.0, "adaptive softmax: dropout before it and within its tails", at_least=0, below=1
    )

    def problems(self) -> list[str]:
        """Heads share the width equally; bands follow each other and have vectors."""
        problems = []
        if self.n_heads >= 1 and self.d_model % self.n_heads:
            problems.append(
                f"model.n_heads: given {self.n_heads}, but it must divide "
                f"model.d_model = {self.d_model}"
            )
        if self.cutoffs != sorted(set(self.cutoffs)):
            problems.append(f"model.cutoffs: given {self.cutoffs}, but they must increase")
        if self.cutoff_factor >= 1 and self.cutoff_factor ** len(self.cutoffs) > self.d_model:
            problems.append(
                f"model.cutoff_factor: given {self.cutoff_factor}, but the vectors of the last of "
                f"{len(self.cutoffs) + 1} bands would be narrower than 1 "
                f"(model.d_model = {self.d_model})"
            )
        if self.softmax_dropout and not self.cutoffs:
            problems.append(
                f"model.softmax_dropout: given {self.softmax_dropout}, but it is the adaptive "
                "softmax's, which has model.cutoffs"
            )
        return problems


@dataclass
class OptimConfig:
    """Linear warm-up, one cosine period, clipping; an optimizer adds its own settings."""

    name: str = setting("adamw", "the optimizer", choices=("adamw",))
    steps: int = setting(500, "optimizer updates", at_least=1)
    tokens_per_step: int = setting(1024, "tokens per update, whatever the hardware", at_least=1)
    micro_batch_size: int | None = setting(
        None, "sequences per forward pass; null: all of a process's at once", at_least=1
    )
    lr: float = setting(5e-3, "peak learning rate", above=0)
    min_lr: float = setting(1e-4, "learning rate at the end of the cosine", at_least=0)
    warmup_steps: int = setting(125, "updates of linear warm-up", at_least=0)
    warmup_init_lr: float | None = setting(
        None, "learning rate of the first update; null: one of warmup_steps equal parts", at_least=0
    )
    grad_clip: float = setting(1.0, "largest norm of the gradient", above=0)

    def problems(self) -> list[str]:
        """The schedule must fit the steps."""
        problems = []
        if self.warmup_steps > self.steps:
            problems.append(
                f"optim.warmup_steps: given {self.warmup_steps}, but it must be at most "
                f"optim.steps = {self.steps}"
            )
        if self.min_lr > self.lr:
            problems.append(
                f"optim.min_lr: given {self.min_lr}, but it must be at most optim.lr = {self.lr}"
            )
        return problems


@dataclass
class AdamwConfig(OptimConfig):
    """AdamW."""

    weight_decay: float = setting(0.1, "on matrices; not on norms, biases, positions", at_least=0)
    beta1: float = setting(0.9, "decay of the first moment", at_least=0, below=1)
    beta2: float = setting(0.95, "decay of the second moment", at_least=0, below=1)


@dataclass
class NagConfig(OptimConfig):
    """Nesterov's accelerated gradient, as fairseq has it."""

    name: str = setting("nag", "the optimizer", choices=("nag",))
    momentum: float = setting(0.99, "of the gradients before, how much goes on", above=0, below=1)


@dataclass
class EvaluationConfig:
    """Which lengths are evaluated, on what, and how (see protocols.py)."""

    protocols: list[str] = setting(
        ["nonoverlapping"], "which tokens are scored with how much context", choices=PROTOCOLS
    )
    lengths: list[int] = setting(
        [64, 128, 256, 512, 1024],
        "evaluation lengths (L_valid in the paper); same_targets: tokens of context",
        at_least=1,
    )
    beyond: list[int] = setting(
        [], "further lengths, by how much longer than train_length they are", at_least=0
    )
    shorter: bool = setting(True, "also those of lengths that are shorter than train_length")
    stride: int | None = setting(None, "sliding: new tokens per window", at_least=1)
    targets: int = setting(256, "same_targets: how many are drawn", at_least=1)
    attention: list[str] = setting(
        ["full"], "window: a query sees the last keys only, a baseline", choices=ATTENTION
    )
    window: int | None = setting(
        None, "keys that a query sees with attention=[window]; null: train_length", at_least=1
    )
    split: str = setting("validation", "split that is scored", choices=SPLITS)
    batch_tokens: int = setting(8192, "tokens per forward pass, at least one window", at_least=1)
    dtype: str | None = setting(None, "null: as in training", choices=DTYPES)

    def problems(self) -> list[str]:
        """There must be something to measure, and what is set must have something to act on."""
        examples = {"protocols": "[sliding]", "attention": "[full,window]"}
        problems = missing(self, examples, "evaluation.")
        if not self.beyond:
            problems += missing(self, {"lengths": "[64,128]"}, "evaluation.")
        sliding = "sliding" in self.protocols
        if sliding and self.stride is None:
            problems.append(
                "evaluation.stride: not given; evaluation.protocols has sliding, which needs the "
                "new tokens per window, e.g. evaluation.stride=16"
            )
        if self.stride is not None and not sliding:
            problems.append(
                f"evaluation.stride: given {self.stride}, but only sliding has a stride; add "
                "evaluation.protocols=[sliding]"
            )
        if self.window is not None and "window" not in self.attention:
            problems.append(
                f"evaluation.window: given {self.window}, but evaluation.attention is "
                f"[{','.join(self.attention)}]; add evaluation.attention=[window]"
            )
        if self.lengths and self.stride is not None and self.stride > min(self.lengths):
            problems.append(
                f"evaluation.stride: given {self.stride}, but it must be at most the shortest of "
                f"evaluation.lengths = {self.lengths}"
            )
        return problems

    def lengths_of(self, train_length: int) -> list[int]:
        """The lengths at which a model trained at that length is evaluated, each once."""
        wanted = dict.fromkeys([*self.lengths, *(train_length + more for more in self.beyond)])
        return [length for length in wanted if self.shorter or length >= train_length]


@dataclass
class TrackingConfig:
    """What Weights & Biases is told of a run; metrics.jsonl and results.jsonl hold it anyway."""

    mode: str = setting("offline", "offline needs no account", choices=TRACKING)
    project: str = setting("alibi_lm", "W&B project")
    entity: str | None = setting(None, "W&B user or team; null: your default")
    group: str | None = setting(None, "group of runs; null: the name of the output folder")
    tags: list[str] = setting([], "tags beside those of scheme, data and length")

    def problems(self) -> list[str]:
        """A project has a name."""
        if not self.project:
            return ["tracking.project: given '', but it must name a W&B project"]
        return []


@dataclass
class Config:
    """One run: a model, its training, and its evaluation."""

    position: PositionConfig = setting(PositionConfig, "the positional scheme")
    model: ModelConfig = setting(ModelConfig, "the decoder's sizes")
    data: DataConfig = setting(DataConfig, "the corpus")
    tokenizer: TokenizerConfig = setting(TokenizerConfig, "the tokenizer")
    optim: OptimConfig = setting(OptimConfig, "the training recipe")
    evaluation: EvaluationConfig = setting(EvaluationConfig, "the evaluation")
    tracking: TrackingConfig = setting(TrackingConfig, "what W&B is told")
    train_length: int = setting(64, "tokens per training sequence (L in the paper)", at_least=1)
    seed: int = setting(0, "decides initial weights, batches and dropout", at_least=0, below=2**32)
    dtype: str = setting("float32", DTYPE_MEANING, choices=DTYPES)
    device: str = setting("auto", "auto: a GPU if there is one", choices=DEVICES)
    backend: str = setting("auto", BACKEND_MEANING, choices=("auto", *BACKENDS))
    compile: bool = setting(False, "torch.compile the blocks for training: a slow first step")
    checkpointing: bool = setting(
        False, "keep blocks' inputs alone for the backward pass: less memory, slower"
    )
    deterministic: bool | None = setting(
        None, "same numbers on each run of a machine; null: on a CPU yes, on a GPU no"
    )
    parallel: str = setting(
        "ddp",
        "of several processes (torchrun) each holds the model whole, or a part",
        choices=PARALLEL,
    )
    checkpoint_seconds: float = setting(
        120.0, "training between checkpoints: the most that a kill can cost", at_least=0
    )
    output: str = setting("outputs", "folder for runs and for what a sweep writes")
    report: str | None = setting(None, "folder for a sweep's report; null: output")
    cache: str = setting("outputs/cache", "folder for token files, shared by runs")
    run: str | None = setting(None, "name of the run folder; null: made from the settings")

    def problems(self) -> list[str]:
        """Everything that cannot be, of each part and between parts."""
        problems = out_of_bounds(self)
        parts = (self.model, self.data, self.tokenizer, self.optim, self.evaluation, self.tracking)
        for part in parts:
            problems += part.problems()
        for key, value in (("output", self.output), ("report", self.report), ("cache", self.cache)):
            if value == "":
                problems.append(f"{key}: given '', but it must name a folder")
        if not problems:
            problems += self.position.problems(self.model) + self._batch_problems()
        if not problems and not self.evaluation.lengths_of(self.train_length):
            problems.append(
                f"evaluation.lengths: given {self.evaluation.lengths}, but with "
                f"evaluation.shorter=false none is at least train_length = {self.train_length}"
            )
        return problems

    def _batch_problems(self) -> list[str]:
        if self.optim.tokens_per_step % self.train_length:
            return [
                f"optim.tokens_per_step: given {self.optim.tokens_per_step}, but it must be a "
                f"multiple of train_length = {self.train_length}"
            ]
        return self.sharing_problems(n_processes=1)

    def sharing_problems(self, n_processes: int) -> list[str]:
        """Why the sequences of a step cannot be shared out among processes and passes."""
        all_of_them = (
            f"{self.sequences_per_step} sequences of a step (optim.tokens_per_step / train_length)"
        )
        if self.sequences_per_step % n_processes:
            return [f"{n_processes} processes cannot share the {all_of_them} equally"]
        micro = self.optim.micro_batch_size
        if micro is not None and self.sequences_per_step // n_processes % micro:
            share = f", {self.sequences_per_step // n_processes} of a process"
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


@dataclass
class EvaluateTrackingConfig:
    """Results are told to the W&B run of the trained run: only how is left to say."""

    mode: str | None = setting(None, "how W&B is told; null: as the run was", choices=TRACKING)


@dataclass
class EvaluateConfig:
    """Evaluation of a run that is trained."""

    run: str = setting("", "folder of the trained run")
    evaluation: EvaluationConfig = setting(EvaluationConfig, "the evaluation")
    device: str = setting("auto", "auto: a GPU if there is one", choices=DEVICES)
    backend: str = setting("auto", BACKEND_MEANING, choices=("auto", *BACKENDS))
    cache: str | None = setting(None, "folder for token files; null: that of the run")
    tracking: EvaluateTrackingConfig = setting(EvaluateTrackingConfig, "what W&B is told")

    def problems(self) -> list[str]:
        """Everything that cannot be."""
        problems = out_of_bounds(self) + self.evaluation.problems()
        if not self.run:
            problems.insert(0, "run: not given; name the folder of a trained run, run=FOLDER")
        return problems


@dataclass
class ConvertConfig:
    """A checkpoint of the paper's authors, and the text that it will be evaluated on."""

    checkpoint: str = setting("", "fairseq's .pt file")
    dictionary: str = setting("", "the dict.txt that its words are numbered by")
    position: PositionConfig = setting(PositionConfig, "its positional scheme; the file is silent")
    data: DataConfig = setting(DataConfig, "the corpus")
    output: str = setting("outputs", "folder for runs")
    cache: str = setting("outputs/cache", "folder for token files, shared by runs")
    run: str | None = setting(None, "name of the run folder; null: made from the settings")

    def problems(self) -> list[str]:
        """There must be a checkpoint and a dictionary."""
        problems = out_of_bounds(self) + self.data.problems()
        for key, example in (("checkpoint", "alibi_wt103_L512.pt"), ("dictionary", "dict.txt")):
            given = getattr(self, key)
            if not given:
                problems.append(f"{key}: not given; name a file, e.g. {key}={example}")
            elif not Path(given).is_file():
                problems.append(f"{key}: given {given}, which is no file")
        return problems


@dataclass
class BenchmarkConfig:
    """What is measured by scripts/benchmark.py."""

    positions: list[str] = setting(
        ["none", "sinusoidal", "rotary", "t5", "alibi"], "schemes", choices=tuple(SCHEMES)
    )
    lengths: list[int] = setting([512, 1024, 2048], "tokens of a sequence", at_least=1)
    phases: list[str] = setting(list(PHASES), "update the weights; score text", choices=PHASES)
    peers: list[str] = setting([], "libraries to compare with, in turns", choices=PEERS)
    model: ModelConfig = setting(ModelConfig, "the decoder's sizes")
    vocab_size: int = setting(2048, "tokens that there are", at_least=1)
    tokens: int = setting(4096, "of one step, at least one sequence", at_least=1)
    rounds: int = setting(7, "timed steps of each", at_least=1)
    dtype: str = setting("float32", DTYPE_MEANING, choices=DTYPES)
    device: str = setting("auto", "auto: a GPU if there is one", choices=DEVICES)
    backend: str = setting("auto", BACKEND_MEANING, choices=("auto", *BACKENDS))
    compile: bool = setting(False, "torch.compile the blocks in training")
    checkpointing: bool = setting(
        False, "keep blocks' inputs alone for the backward pass: less memory, slower"
    )
    output: str = setting("outputs/benchmark", "folder for the results")

    def problems(self) -> list[str]:
        """There must be something to measure."""
        problems = out_of_bounds(self) + self.model.problems()
        examples = {"positions": "[none,alibi]", "lengths": "[512]", "phases": "[training]"}
        problems += missing(self, examples)
        for key in ("positions", "lengths", "phases", "peers"):
            given = getattr(self, key)
            if len(set(given)) < len(given):
                problems.append(f"{key}: given {given}, but each only once")
        if self.peers and (self.compile or self.checkpointing):
            problems.append(
                "compile, checkpointing: given true, but peers are measured without; leave out "
                f"peers={self.peers}"
            )
        if not self.output:
            problems.append("output: given '', but it must name a folder")
        if not problems:
            for name in self.positions:
                problems += SCHEMES[name][0]().problems(self.model)
        return problems


# The parts of a Config that come in kinds: the key that names the kind, and each kind's settings.
KINDS: dict[str, tuple[str, dict[str, type[Any]]]] = {
    "position": ("name", {name: config for name, (config, _) in SCHEMES.items()}),
    "data": ("source", {name: config for name, (config, _) in SOURCES.items()}),
    "tokenizer": ("name", {name: config for name, (config, _) in TOKENIZERS.items()}),
    "optim": ("name", {"adamw": AdamwConfig, "nag": NagConfig}),
}


def register_schemas() -> None:
    """Tell Hydra the types, so that it refuses what does not fit while it composes."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="evaluate_schema", node=EvaluateConfig)
    store.store(name="convert_schema", node=ConvertConfig)
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    for group, (_, kinds) in KINDS.items():
        for name, kind in kinds.items():
            store.store(group=f"schema/{group}", name=name, node=kind)


ConfigT = TypeVar("ConfigT", Config, EvaluateConfig, ConvertConfig, BenchmarkConfig)


def from_hydra(composed: DictConfig, kind: type[ConfigT]) -> ConfigT:
    """The typed configuration, or a SettingsError with every problem that it has."""
    composed = composed.copy()
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra", None)
    # `+key=value` gets a key past Hydra's own check, so the keys are compared here.
    if surplus := _surplus(composed, kind):
        raise SettingsError(surplus)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, kind)
    if problems := config.problems():
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


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values, as they are written to a run's config.yaml."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The configuration that `to_dict` wrote; raises a SettingsError or OmegaConf's own errors."""
    problems = []
    typed: dict[str, Any] = dict(values)
    for group, (key, kinds) in KINDS.items():
        part = values.get(group, {})
        name = part.get(key)
        if name not in kinds:
            problems.append(unknown(f"{group}.{key}", str(name), list(kinds)))
        else:
            typed[group] = OmegaConf.merge(OmegaConf.structured(kinds[name]), part)
    if problems:
        raise SettingsError(problems)
    merged = OmegaConf.merge(OmegaConf.structured(Config), typed)
    assert isinstance(merged, DictConfig)
    return from_hydra(merged, Config)
