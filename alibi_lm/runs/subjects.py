"""What is measured of a run: its model, ready to be read by the settings of each measurement."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from alibi_lm.attention import Form
from alibi_lm.config import PretrainedConfig
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Measurement
from alibi_lm.evaluation.score import Subject
from alibi_lm.machine.progress import say
from alibi_lm.model.huggingface import HuggingfaceConfig, HuggingfaceModel, hash_of
from alibi_lm.positions import SCHEMES, Position, PositionConfig
from alibi_lm.runs.folder import Run
from alibi_lm.runs.readings import build_reading, reading
from alibi_lm.runs.train import build_model


@dataclass(frozen=True)
class Subjects:
    """The model of a run; `of` gives it as a measurement wants it, until that of another."""

    n_parameters: int
    of: Callable[[Measurement], Subject]


def load_subjects(run: Run, wanted: Sequence[Measurement], device: torch.device) -> Subjects:
    """The trained model of a run on the device, for these measurements."""
    if isinstance(run.config, PretrainedConfig):
        return _pretrained(run, run.config, wanted, device)
    model = build_model(run, seed=None, backend=run.config.backend).to(device).eval()
    run.load_weights(model)
    trained = model.position

    @functools.cache
    def position_of(changes: str) -> Position:
        position = build_reading(run.config, changes, trained)
        position.read_vocabulary(run.data.texts)
        return position.to(device).eval()

    def of(measurement: Measurement) -> Subject:
        model.position = position_of(measurement.changes)
        return model

    return Subjects(model.n_parameters, of)


def _pretrained(
    run: Run, config: PretrainedConfig, wanted: Sequence[Measurement], device: torch.device
) -> Subjects:
    check_unchanged(run, config.pretrained)
    longest = max(measurement.protocol.length for measurement in wanted)
    loaded: dict[str, HuggingfaceModel] = {}

    def read_as(model: HuggingfaceModel, changes: str) -> None:
        model.rotations.read_as(reading(config, changes), config.position, config.sizes)

    def model_of(dtype: str) -> HuggingfaceModel:
        if dtype in loaded:
            return loaded[dtype]
        loaded.clear()  # one dtype at a time: a model may fill the memory
        loaded[dtype] = model = HuggingfaceModel(config.pretrained, dtype, device, longest)
        model.check_tokens(max(run.data.largest, run.bos or 0))
        for changes in dict.fromkeys(measurement.changes for measurement in wanted):
            read_as(model, changes)  # or refuse it, before anything is read
        if adds_by_key(config.position) and (dtype != "float32" or model.rounds_biases):
            advice = "" if model.rounds_biases else ": evaluation.dtype=float32"
            say(
                f"warning: in {dtype} transformers rounds ALiBi's biases of this model, so that "
                f"distant keys share one; what grows with length may be that{advice}"
            )
        return model

    def of(measurement: Measurement) -> Subject:
        model = model_of(measurement.dtype)
        read_as(model, measurement.changes)
        return model

    return Subjects(model_of(wanted[0].dtype).n_parameters, of)


def adds_by_key(position: PositionConfig) -> bool:
    """Whether a scheme adds a number to each key that grows with its distance."""
    return any(
        needed.form is Form.BY_KEY for needed in SCHEMES.made[position.kind].needs(position, 2)
    )


def check_unchanged(run: Run, pretrained: HuggingfaceConfig) -> None:
    """Refuse a model whose folder holds other weights than when the run was made."""
    if hash_of(pretrained) != run.manifest()["weights_sha256"]:
        raise UserError(
            f"{pretrained.name} does not hold the model that {run.path} was made of; convert it "
            "again"
        )
