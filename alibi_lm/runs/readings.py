"""Reading trained weights by other settings of their scheme, or by another scheme.

A reading is part of a measurement, in the words that would set it: a rotary model read with
`position.scaling=yarn position.factor=8.0`, or as `position=none`. Any scheme will do whose
parameters have the trained one's names and shapes. What a reading computes follows from the
settings, the training length and the length of the text alone: nothing is kept from what was read
before.
"""

import dataclasses
from dataclasses import asdict, replace
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from alibi_lm.config import PretrainedConfig, RunConfig
from alibi_lm.errors import SettingsError
from alibi_lm.positions import SCHEMES, Position, PositionConfig
from alibi_lm.positions.rope_parameters import FREQUENCIES, rope_parameters
from alibi_lm.positions.spec import read_spec, shared_settings
from alibi_lm.settings import default_of, words

SETTING = "evaluation.position"


def readings(config: RunConfig, wanted: Any) -> dict[str, PositionConfig]:
    """Each wanted reading of a run with these settings by its words, "" for as it was trained.

    wanted: evaluation.position. A SettingsError if there is none, or the weights do not allow it.
    """
    if wanted is None:
        return {"": config.position}
    found = {}
    for spec in wanted if isinstance(wanted, list) else [wanted]:
        base = config.position.before(spec) if isinstance(spec, dict) else config.position
        position = read_spec(spec, SETTING, base=base)
        _check(position, config)
        words = _words(position, config.position)
        if not _say(words, position, config):
            raise SettingsError([f"{SETTING}: given {spec}, which cannot stand in a row as words"])
        found[words] = position
    if not found:
        raise SettingsError([f"{SETTING}: given none; name at least one, e.g. {{}} as trained"])
    return found


def _say(words: str, position: PositionConfig, config: RunConfig) -> bool:
    """Whether the words are read as these settings again."""
    try:
        return reading(config, words) == position
    except (HydraException, SettingsError):
        return False


def reading(config: RunConfig, changes: str) -> PositionConfig:
    """The scheme's settings of a measurement with these changes of a run with these settings."""
    spec: dict[str, Any] = {}
    parser = OverridesParser.create()
    for word in changes.split():
        key, _, _ = word.partition("=")
        if key == "position" or key.startswith("position."):
            name = "kind" if key == "position" else key.removeprefix("position.")
            spec[name] = parser.parse_override(word).value()
    return read_spec(spec, SETTING, base=config.position)


def build_reading(config: RunConfig, changes: str, trained: Position) -> Position:
    """The scheme that a measurement reads the trained scheme's weights by."""
    settings = reading(config, changes)
    if settings == config.position:
        return trained
    sizes = config.sizes
    position: Position = SCHEMES.build(settings, sizes)
    # Parameters alone: what else a scheme keeps follows from its settings.
    with torch.no_grad():
        weights = dict(trained.named_parameters())
        for name, parameter in position.named_parameters():
            parameter.copy_(weights[name])
    position.constrain()
    return position


def _check(position: PositionConfig, config: RunConfig) -> None:
    """Refuse settings that do not fit the model, and parameters that the weights do not have."""
    sizes = config.sizes
    if problems := position.problems(sizes):
        raise SettingsError([f"{SETTING}: {problem}" for problem in problems])
    if isinstance(config, PretrainedConfig):
        _check_pretrained(position, config)
        return
    there, here = (_shapes(SCHEMES.build(p, sizes)) for p in (config.position, position))
    differences = [
        f"{name} is {here.get(name, 'not there')}, in the trained {there.get(name, 'not there')}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differences:
        raise SettingsError(
            [
                f"{SETTING}: given {_words(position, config.position)}, but its parameters are not "
                f"those of the trained position={config.position.kind}: {'; '.join(differences)}"
            ]
        )


def _check_pretrained(position: PositionConfig, config: PretrainedConfig) -> None:
    """Refuse what transformers cannot compute of a model of its own: all but rotary frequencies."""
    if position == config.position:
        return
    given = _words(position, config.position)
    if not config.pretrained.rescalable:
        raise SettingsError(
            [
                f"{SETTING}: given {given}, but {config.pretrained.label} "
                f"(position={config.position.kind}) has no rope_parameters that could be changed"
            ]
        )
    changed = {k: v for k, v in asdict(position).items() if k in FREQUENCIES}
    if position.kind != config.position.kind or replace(config.position, **changed) != position:
        raise SettingsError(
            [
                f"{SETTING}: given {given}, but a pretrained model can only be read by other "
                f"frequencies: {', '.join(FREQUENCIES)}"
            ]
        )
    rope_parameters(position, config.sizes)


def _shapes(position: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in position.named_parameters()}


def _words(position: PositionConfig, trained: PositionConfig) -> str:
    """What is changed, as words of the command line; the same for all specs of one meaning."""
    changed: dict[str, Any] = {}
    if position.kind != trained.kind:
        changed["position"] = position.kind
    shared = shared_settings(type(trained), type(position))
    for field in dataclasses.fields(position):
        before = getattr(trained, field.name) if field.name in shared else default_of(field)
        if (value := getattr(position, field.name)) != before:
            changed[f"position.{field.name}"] = value
    return words(changed)
