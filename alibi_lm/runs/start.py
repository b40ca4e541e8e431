"""Training on from the weights of another run, by the same positional scheme or by another.

Everything but the scheme must fit: the tokenizer, the decoder's sizes, every tensor. Of the
scheme's own parameters those are taken that have the same names and shapes; others are drawn as in
a new model, or left over.
"""

import dataclasses
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from alibi_lm.config import Config
from alibi_lm.data.tokens import TokenizedCorpus
from alibi_lm.errors import UserError
from alibi_lm.model.decoder import Decoder
from alibi_lm.runs.folder import RunFolder, open_folder
from alibi_lm.runs.identity import identify

# What may differ: dropouts are of a training, initial values are not used.
FREE = ("dropout", "attention_dropout", "activation_dropout", "softmax_dropout", "init")


class Start(NamedTuple):
    """What the weights are that a training starts from."""

    source: str  # their hash
    words: str  # what they were trained as, for the settings of rows


def find_start(config: Config, data: TokenizedCorpus) -> Start | None:
    """The start that is set, if one is; a UserError if this run cannot start from it."""
    if config.start is None:
        return None
    folder = _parent(config.start)
    theirs, manifest = folder.read_config(), folder.manifest()
    if not isinstance(theirs, Config):
        raise UserError(f"start: {config.start} is a pretrained model, and only our own train on")
    problems = [
        f"model.{field.name} is {getattr(theirs.model, field.name)} there and "
        f"{getattr(config.model, field.name)} here"
        for field in dataclasses.fields(theirs.model)
        if field.name not in FREE
        and getattr(theirs.model, field.name) != getattr(config.model, field.name)
    ]
    if manifest["identity"]["tokenizer_hash"] != data.tokenizer_hash:
        problems.append(
            "its tokenizer is another; to take it: tokenizer=file "
            f"tokenizer.path={folder.tokenizer}"
        )
    if problems:
        raise UserError(f"start: given {config.start}, but {'; '.join(problems)}")
    rows = manifest.get("rows") or asdict(identify(theirs, data))
    scheme = "+".join([theirs.position.kind, *rows["variant"].split()])
    words = f"{scheme}-L{theirs.train_length}-{rows['recipe']}"
    return Start(_hash(folder), words)


def _parent(path: str) -> RunFolder:
    try:
        return open_folder(Path(path))
    except UserError as error:
        raise UserError(str(error).replace("run:", "start:", 1)) from error


def _hash(folder: RunFolder) -> str:
    """Of the weights; runs of the first versions do not say it."""
    told: str | None = folder.manifest().get("weights_sha256")
    return told or hashlib.sha256(folder.weights.read_bytes()).hexdigest()


def load_start(model: Decoder, path: str, source: str) -> None:
    """Put another run's weights into a new model.

    source: their hash. A UserError if they are others by now, or other parts do not fit.
    """
    folder = _parent(path)
    if _hash(folder) != source:
        raise UserError(f"start: given {path}, whose weights have changed since; start again")
    theirs = folder.read_weights()
    ours = dict(model.named_parameters())
    fitting = {name for name in theirs if name in ours and theirs[name].shape == ours[name].shape}
    wrong = sorted(
        name for name in (theirs.keys() | ours.keys()) - fitting if not name.startswith("position.")
    )
    if wrong:
        raise UserError(f"start: given {path}, but {', '.join(wrong[:3])} of its model do not fit")
    model.load_state_dict({name: theirs[name] for name in fitting}, strict=False)
    model.position.constrain()
