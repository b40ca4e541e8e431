from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from samples import trained

from alibi_lm.config import Config
from alibi_lm.errors import UserError
from alibi_lm.positions.t5 import t5_buckets
from alibi_lm.runs.biases import attention_left, bias_figure, bias_matrix


def test_alibi_by_name() -> None:
    bias = bias_matrix("alibi", length=5, n_heads=8)
    assert bias.matrix.shape == (8, 5, 5)
    assert bias.matrix[0, 4].tolist() == [-2.0, -1.5, -1.0, -0.5, 0.0]
    assert (bias.matrix[:, 1, 2:] == -torch.inf).all()


def test_a_learned_bias_of_a_run(small_config: Callable[..., Config]) -> None:
    config = small_config("t5")
    run = trained(config)
    bias = bias_matrix(str(run.path), length=20, n_heads=99)
    table = load_file(run.weights)["position.relative_attention_bias.weight"]
    assert bias.matrix.shape == (2, 20, 20)
    torch.testing.assert_close(bias.matrix[:, 19, 0], table[t5_buckets(torch.tensor(19), 32, 128)])
    assert "trained at 16" in bias.title
    assert "untrained" in bias_matrix("t5", 20, 2).title


def test_attention_left_for_equally_similar_keys() -> None:
    left = attention_left(bias_matrix("alibi", 50, 1).matrix)[0]
    slope = 2.0**-8
    assert left.sum().item() == pytest.approx(1)
    assert (left[10] / left[0]).item() == pytest.approx(torch.tensor(-10 * slope).exp().item())


def test_what_has_no_bias(tmp_path: Path) -> None:
    nothing = bias_matrix("none", 8, 4)
    assert nothing.title == "NoPE: adds nothing" and not nothing.matrix.tril().any()
    assert bias_matrix("cope", 8, 4).title.endswith("its initial values: adds nothing")
    assert bias_matrix("sinusoidal", 8, 4).title == "Sinusoidal: similarity of embeddings"
    with pytest.raises(UserError, match=r"sources: position.slopes: given 2, but the model has 4"):
        bias_matrix({"kind": "alibi", "slopes": [0.1, 0.2]}, 8, 4)
    with pytest.raises(
        UserError, match=r"sources: position.max_positions: given 16, but it must be"
    ):
        bias_matrix({"kind": "randomized", "max_positions": 16}, 30, 4)
    with pytest.raises(UserError, match=r"did you mean alibi\?.*or a run folder"):
        bias_matrix("alibbi", 8, 4)
    with pytest.raises(UserError, match="is not a run folder"):
        bias_matrix(str(tmp_path), 8, 4)


def test_figure() -> None:
    figure = bias_figure([bias_matrix("t5", 30, 3), bias_matrix("alibi", 30, 8)])
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles.count("head 3") == 2
    assert titles.count("head 8") == 1
    assert titles.count("attention left for a key") == 2
