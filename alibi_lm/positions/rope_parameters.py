"""Rotary settings in the words of transformers: a configuration's `rope_parameters`, and back.

Its types are our scalings: `default` is none (and ntk, which is a larger base), the others have our
names; `longrope_dynamic` it does not have. It scales `dynamic` from max_position_embeddings on,
which therefore goes with the parameters.
"""

from typing import Any

from alibi_lm.errors import SettingsError
from alibi_lm.positions.base import PositionConfig, Sizes
from alibi_lm.positions.frequencies import BY_LENGTH, FrequencyConfig
from alibi_lm.positions.spec import label, read_spec

# By type: our setting, by the name that transformers has for it.
TYPES: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "truncate": "truncate",
    },
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "longrope": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "attention_factor": "attention_factor",
        "short_factor": "short_factors",
        "long_factor": "long_factors",
    },
}
# The settings that parameters stand for.
FREQUENCIES = (
    "theta",
    "scaling",
    *dict.fromkeys(ours for of in TYPES.values() for ours in of.values()),
)
ORIGINAL = ("dynamic", "yarn", "llama3", "longrope")  # types that scale from some length on
SAME = ("rope_theta", "rope_type", "type", "partial_rotary_factor")


def depends_on_length(rope_type: str) -> bool:
    """Whether rotations of that type look at the length of the text."""
    return rope_type in BY_LENGTH


def read_rope_parameters(
    parameters: dict[str, Any], max_length: int, train_length: int
) -> PositionConfig | None:
    """The rotary settings that the parameters stand for; None if ours cannot say them.

    max_length: the model's max_position_embeddings. train_length: of the run.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    names = TYPES.get(kind)
    if names is None or parameters.keys() - names.keys() - {*SAME}:
        return None
    given = {ours: parameters.get(name) for name, ours in names.items()}
    spec = {ours: value for ours, value in given.items() if value is not None}
    if kind == "longrope" and "factor" not in spec and "original_length" in spec:
        spec["factor"] = max_length / spec["original_length"]
    if kind in ORIGINAL:  # what transformers scales from, unless that is the training length
        origin = spec.pop("original_length", max_length)
        spec |= {"original_length": origin} if origin != train_length else {}
    spec |= {
        "theta": parameters["rope_theta"],
        "part": parameters.get("partial_rotary_factor", 1.0),
    }
    spec |= {"scaling": kind} if kind != "default" else {}
    try:
        return read_spec({"kind": "rotary"} | spec, "rope_parameters")
    except SettingsError:
        return None


def rope_parameters(position: PositionConfig, sizes: Sizes) -> tuple[dict[str, Any], int]:
    """The parameters that stand for rotary settings, and the max_position_embeddings they need.

    A SettingsError if transformers cannot compute them.
    """
    scaling = getattr(position, "scaling", "")
    kind = {"none": "default", "ntk": "default"}.get(scaling, scaling)
    if not isinstance(position, FrequencyConfig) or kind not in TYPES:
        raise SettingsError([f"transformers cannot compute position={label(position)}"])
    length, part = position.original_length or sizes.train_length, getattr(position, "part", 1.0)
    theta, width = position.theta, int(sizes.head_dim * part)
    if position.scaling == "ntk":
        theta *= position.factor ** (width / (width - 2))
    values = {name: getattr(position, ours) for name, ours in TYPES[kind].items()}
    values = {name: value for name, value in values.items() if value not in (None, [])}
    if "original_max_position_embeddings" in TYPES[kind]:
        values["original_max_position_embeddings"] = length
    if kind == "longrope":
        values.setdefault("short_factor", [1.0] * len(values["long_factor"]))
    if "attention_factor" in TYPES[kind]:
        values["attention_factor"] = position.factor_on_both(length)
    values |= {"rope_type": kind, "rope_theta": theta, "partial_rotary_factor": part}
    return values, length if position.scaling in BY_LENGTH else sizes.train_length
