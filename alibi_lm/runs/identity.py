"""What decides the trained weights of a run: its identity, from which its name follows."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from alibi_lm.config import Config, to_dict
from alibi_lm.data.tokens import TokenizedCorpus

# Settings that say where and how things are done, not what is trained.
CIRCUMSTANCES = (
    "evaluation",
    "device",
    "backend",
    "compile",
    "checkpointing",
    "deterministic",
    "parallel",
    "checkpoint_seconds",
    "tracking",
    "output",
    "report",
    "cache",
    "run",
    "data",
    "tokenizer",
)


def identity(config: Config, data: TokenizedCorpus) -> dict[str, Any]:
    """Everything that decides the trained weights, as plain values."""
    settings = {key: value for key, value in to_dict(config).items() if key not in CIRCUMSTANCES}
    return settings | {"data_hash": data.hash, "tokenizer_hash": data.tokenizer_hash}


def run_name(config: Config, data: TokenizedCorpus) -> str:
    """For people the first words, for machines the hash."""
    words = (data.name, config.position.name, f"L{config.train_length}", f"s{config.seed}")
    return "-".join((*words, _digest(identity(config, data))))


def settings(config: Config) -> str:
    """All settings of model and training but scheme, training length and seed: `key=value ...`."""
    shared = {key: value for key, value in to_dict(config).items() if key not in CIRCUMSTANCES}
    for key in ("position", "train_length", "seed"):
        del shared[key]
    del shared["optim"]["micro_batch_size"]  # how an update is computed, not which
    return _words(_flat(shared))


def variant(config: Config) -> str:
    """The settings of the scheme that are not its defaults, as `key=value ...`."""
    defaults = asdict(type(config.position)())
    return _words({k: v for k, v in asdict(config.position).items() if v != defaults[k]})


def recipe(config: Config, data: TokenizedCorpus) -> str:
    """A hash of settings and text: runs of one recipe differ in scheme, length and seed alone."""
    return _digest([settings(config), data.hash, data.tokenizer_hash])


def _words(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
