from pathlib import Path

import pytest
import torch

from alibi_lm.checkpoint import load_weights, pack_weights
from alibi_lm.config import ModelConfig
from alibi_lm.errors import UserError
from alibi_lm.model import Decoder
from alibi_lm.positions import SCHEMES

SIZES = ModelConfig(n_layers=1, n_heads=2, d_model=8, d_ff=16)


def decoder(position: str = "t5", seed: int = 0, vocab: int = 20) -> Decoder:
    return Decoder(SIZES, SCHEMES[position][0](), vocab, seed)


def test_round_trip(tmp_path: Path) -> None:
    saved, loaded = decoder(seed=0), decoder(seed=1)
    (tmp_path / "model.safetensors").write_bytes(pack_weights(saved))
    load_weights(loaded, tmp_path / "model.safetensors")
    for name, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_part_alone(tmp_path: Path) -> None:
    saved, loaded = decoder(seed=0), decoder(seed=1)
    (tmp_path / "model.safetensors").write_bytes(pack_weights(saved))
    load_weights(loaded.position, tmp_path / "model.safetensors", part="position.")
    for name, value in saved.position.state_dict().items():
        assert torch.equal(value, loaded.position.state_dict()[name])
    assert not torch.equal(saved.embedding.weight, loaded.embedding.weight)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack_weights(decoder("t5")))
    for other in (decoder("alibi"), decoder("t5", vocab=21)):
        with pytest.raises(UserError, match="does not fit the run's configuration") as caught:
            load_weights(other, path)
        assert "\n" not in str(caught.value)


def test_damaged_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack_weights(decoder()))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="is damaged"):
        load_weights(decoder(), path)
    with pytest.raises(UserError, match="cannot read"):
        load_weights(decoder(), tmp_path / "gone.safetensors")
