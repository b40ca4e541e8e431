"""The identity of a run: everything that decides its trained weights.

It holds the settings that differ from their defaults, so a new setting with a default renames no
run that was trained before it existed. Of text and tokenizer the content counts, not where it lies.
"""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alibi_lm.config import Config, PretrainedConfig, RunConfig
from alibi_lm.data.tokens import TokenizedCorpus
from alibi_lm.positions import SCHEMES
from alibi_lm.settings import changed_settings, words

SCHEMA = 1  # goes up only when a default changes its meaning
# How an update is computed changes the weights in their last digits, but not what is compared.
NOT_RECIPE = ("optim.micro_batch_size",)


@dataclass(frozen=True)
class Identity:
    """What a run is, and the words that its rows use for it."""

    values: dict[str, Any]  # settings that are not defaults, hashes of text and tokenizer, schema
    settings: str  # those that are not scheme, train_length or seed, as `key=value ...`
    variant: str  # those of the scheme
    recipe: str  # hash of settings and text: runs of one recipe are comparable

    @property
    def hash(self) -> str:
        """Eight digits that tell runs apart."""
        return _digest(self.values)


def identify(
    config: RunConfig, data: TokenizedCorpus, source: str | None = None, start: str = ""
) -> Identity:
    """The identity of the run of these settings on this text.

    source: hash of the weights that it starts from, if it does not start from the seed alone.
    start: what these were trained as, for the words of rows.
    """
    changed = changed_settings(config, identity_only=True)
    hashes = {"data_hash": data.hash, "tokenizer_hash": data.tokenizer_hash}
    kinds = {"position": config.position.kind}
    named, own = {}, {}
    if isinstance(config, Config):
        kinds["optim"] = config.optim.kind
        named = {"optim": config.optim.kind} | ({"start": start} if start else {})
    elif isinstance(config, PretrainedConfig):
        # Models that share a tokenizer are compared, like schemes.
        changed = {k: v for k, v in changed.items() if not k.startswith("pretrained.")}
        hashes["end"] = str(config.tokenizer.end_token())  # of documents: another, other tokens
        named, own = {"model": "pretrained"}, {"model": config.pretrained.label}
    values = {"schema": SCHEMA} | kinds | changed | hashes
    if source is not None:
        values["source"] = source
    if code := _own_code(config):
        values["position_hash"] = code
    own |= {k: v for k, v in changed.items() if k.startswith("position.")}
    shared = {
        key: value
        for key, value in sorted(changed.items(), key=lambda item: "." not in item[0])
        if key not in (*own, "train_length", "seed", *NOT_RECIPE)
    }
    settings = words(named | shared)
    variant = words({key.removeprefix("position."): value for key, value in own.items()})
    return Identity(values, settings, variant, _digest([settings, *hashes.values()]))


def _own_code(config: RunConfig) -> str | None:
    """The hash of the file of a scheme of the user's own: its formula may change under its name."""
    module = SCHEMES.made[config.position.kind].__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if module.startswith("alibi_lm.") or file is None:
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
