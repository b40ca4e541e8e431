"""The adaptive softmax against full log-probabilities, and what it holds."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from alibi_lm.errors import UserError
from alibi_lm.model import softmax as softmax_module
from alibi_lm.model.adaptive import AdaptiveSoftmax
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder, check_vocabulary
from alibi_lm.model.softmax import UNSCORED
from alibi_lm.positions import SCHEMES

VOCAB, WIDTH, CUTOFFS = 300, 64, [40, 120]


def softmax(
    vocab: int = VOCAB, cutoffs: list[int] = CUTOFFS, factor: int = 4, dropout: float = 0.0
) -> AdaptiveSoftmax:
    made = AdaptiveSoftmax(vocab, WIDTH, cutoffs, factor, dropout)
    for name, parameter in made.named_parameters():
        with torch.no_grad():
            made.initialize(name, parameter, torch.Generator().manual_seed(len(name)))
    return made


def log_probabilities(made: AdaptiveSoftmax, hidden: torch.Tensor) -> torch.Tensor:
    """Every word's, by the definition, in float64. (..., D) -> (..., V)."""
    hidden = hidden.double()
    words, *tails = (band.double() for band in made.bands)
    head = (hidden @ torch.cat([words, made.clusters.double()]).T).log_softmax(-1)
    parts = [head[..., : len(words)]]
    for i, tail in enumerate(tails):
        within = (hidden @ made.projections[i + 1].double() @ tail.T).log_softmax(-1)
        parts.append(head[..., len(words) + i, None] + within)
    return torch.cat(parts, -1)


@given(st.lists(st.integers(1, 59), min_size=1, max_size=3, unique=True), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_losses_are_those_of_full_log_probabilities(cutoffs: list[int], factor: int) -> None:
    made = softmax(60, sorted(cutoffs), factor)
    hidden, targets = torch.randn(2, 30, WIDTH), torch.arange(60).view(2, 30)
    exact = log_probabilities(made, hidden)
    torch.testing.assert_close(exact.exp().sum(-1), torch.ones(2, 30).double())
    wanted = -exact.gather(-1, targets[..., None])[..., 0].float()
    torch.testing.assert_close(made.losses(hidden, targets), wanted)
    with torch.no_grad():
        torch.testing.assert_close(made.losses(hidden, targets), wanted)


def test_gradients_are_those_of_the_definition() -> None:
    made = softmax().requires_grad_()
    hidden = torch.randn(50, WIDTH, requires_grad=True)
    targets = torch.randint(VOCAB, (50,))
    leaves = [hidden, *made.parameters()]
    exact = -log_probabilities(made, hidden).gather(-1, targets[:, None]).sum()
    theirs = torch.autograd.grad(exact, leaves, allow_unused=True)
    ours = torch.autograd.grad(made.losses(hidden, targets).sum(), leaves, allow_unused=True)
    for mine, wanted in zip(ours, theirs, strict=True):
        if wanted is not None:  # band 0's projection embeds alone
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)
        else:
            assert mine is None


def test_every_parameter_takes_part_in_every_step() -> None:
    """Whatever words a batch has: processes that share it wait for each other's gradients."""
    made = softmax()
    tokens = torch.zeros(1, 4, dtype=torch.long)
    made.losses(made.embed(tokens), tokens).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


def test_words_are_embedded_by_their_band() -> None:
    made = softmax()
    tokens = torch.tensor([[0, 39, 40, 119, 120, 299]])
    found = made.embed(tokens)[0]
    for place, (band, row) in enumerate([(0, 0), (0, 39), (1, 0), (1, 79), (2, 0), (2, 179)]):
        wanted = made.projections[band] @ made.bands[band][row]
        torch.testing.assert_close(found[place], wanted)


def test_unscored_targets_are_left_out() -> None:
    made = softmax()
    hidden, targets = torch.randn(2, 20, WIDTH), torch.randint(VOCAB, (2, 20))
    whole = made.losses(hidden, targets)
    some = targets.clone()
    some[:, ::3] = UNSCORED
    torch.testing.assert_close(made.losses(hidden, some)[some >= 0], whole[some >= 0])
    assert (made.losses(hidden, some)[:, ::3] == 0).all()


def test_logits_are_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made, held = softmax(), []
    hidden, targets = torch.randn(1, 100, WIDTH), torch.randint(VOCAB, (1, 100))
    exact = made.losses(hidden, targets)
    exact_gradients = torch.autograd.grad(exact.sum(), made.bands)
    monkeypatch.setattr(softmax_module, "LOGITS_AT_ONCE", {"training": 500, "evaluation": 400})
    original = softmax_module.token_losses

    def counted(hidden: torch.Tensor, targets: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        held.append(len(hidden) * len(matrix))
        return original(hidden, targets, matrix)

    monkeypatch.setattr(softmax_module, "token_losses", counted)
    parts = made.losses(hidden, targets)
    torch.testing.assert_close(parts, exact)
    for mine, wanted in zip(
        torch.autograd.grad(parts.sum(), made.bands), exact_gradients, strict=True
    ):
        torch.testing.assert_close(mine, wanted)
    with torch.no_grad():
        torch.testing.assert_close(made.losses(hidden, targets), exact)
    assert held and max(held) <= 500


def test_dropout_is_before_the_head_and_again_within_tails() -> None:
    """As fairseq has it; what is dropped twice varies more than what is dropped once."""
    made = softmax(dropout=0.5)
    hidden = torch.randn(1, 1, WIDTH).repeat(1, 4000, 1)
    word = torch.full((1, 4000), 299)
    frequent = made.losses(hidden, torch.full((1, 4000), 7))
    assert frequent.std() > 0.01
    rare = made.losses(hidden, word)
    torch.manual_seed(1)
    dropped = F.dropout(hidden, 0.5)
    inner = F.dropout(dropped @ made.projections[2], 0.5)
    head = dropped @ torch.cat([made.bands[0], made.clusters]).T
    inside = (inner @ made.bands[2].T).log_softmax(-1)[..., 299 - 120]
    spread = -(head.log_softmax(-1)[..., 41] + inside)
    assert rare.std().item() == pytest.approx(spread.std().item(), rel=0.1)
    assert rare.mean().item() == pytest.approx(spread.mean().item(), rel=0.05)
    made.eval()
    assert made.losses(hidden, word).std() < 1e-5


def test_the_papers_model_has_the_papers_parameters() -> None:
    paper = ModelConfig(
        16, 8, 1024, 4096, final_norm=False, cutoffs=[20_000, 60_000], cutoff_factor=4
    )
    with torch.device("meta"):
        model = Decoder(paper, SCHEMES.settings["alibi"](), vocab_size=267_744, train_length=512)
    assert model.n_parameters == 246_933_504


@pytest.mark.parametrize("vocab_size", [100, 120])
def test_cutoffs_beyond_the_vocabulary(vocab_size: int) -> None:
    with pytest.raises(UserError, match=r"model.cutoffs: given \[40, 120\].* only 1.0 tok"):
        check_vocabulary(ModelConfig(cutoffs=CUTOFFS), vocab_size)


def test_in_16_bits_losses_are_float32() -> None:
    made = softmax()
    tokens = torch.randint(VOCAB, (2, 30))
    exact = made.losses(made.embed(tokens), tokens)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = made.embed(tokens)
        losses = made.losses(embedded, tokens)
    assert embedded.dtype == losses.dtype == torch.float32
    assert F.mse_loss(losses, exact) < 0.05
