"""Costs that are predicted against those that are measured, and the paper's by hand."""

import functools
from collections.abc import Callable
from dataclasses import replace
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch

from alibi_lm.benchmark.costs import (
    Text,
    cost,
    fitting,
    named_machine,
    table,
    text_of,
    this_machine,
)
from alibi_lm.benchmark.measure import rise
from alibi_lm.config import AdamwConfig, Config, ModelConfig, NagConfig, OptimConfig
from alibi_lm.data.text import TextConfig
from alibi_lm.data.tokenizers import BpeConfig, WordsConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.data.wikitext import WikitextConfig
from alibi_lm.errors import UserError
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES
from alibi_lm.report.published import WIKITEXT, perplexities
from alibi_lm.runs.plan import plan
from alibi_lm.training.loop import update
from alibi_lm.training.optim import build_optimizer

CPU = torch.device("cpu")
PLAIN = ModelConfig(n_layers=2, n_heads=4, d_model=128, d_ff=512)
PAPERS = ModelConfig(
    n_layers=2,
    n_heads=4,
    d_model=192,
    d_ff=768,
    dropout=0.3,
    attention_dropout=0.1,
    activation_dropout=0.1,
    final_norm=False,
    cutoffs=[500, 2000],
    softmax_dropout=0.2,
)


def measured_memory(config: Config, vocab_size: int) -> int:
    """Bytes of all tensors at the peak of a real update, on words that follow Zipf's law."""
    model = Decoder(config.model, config.position, vocab_size, checkpointing=config.checkpointing)
    optimizer = build_optimizer(model, config.optim)
    shape = (config.sequences_per_step, config.train_length + 1)
    ranks = np.exp(np.random.default_rng(0).random(shape) * np.log(vocab_size)).astype(np.int64)
    rows = torch.from_numpy(ranks - 1)

    def step() -> None:
        update(model, optimizer, rows[:, :-1], rows[:, 1:], config, CPU)

    step()
    state = [v for values in optimizer.state.values() for v in values.values()]
    tensors = [*model.parameters(), *(v for v in state if isinstance(v, torch.Tensor))]
    return sum(x.numel() * x.element_size() for x in tensors) + rise(step, CPU)


@pytest.mark.parametrize(
    ("position", "sizes", "optim", "vocab_size", "changes"),
    [
        ("alibi", PLAIN, AdamwConfig(tokens_per_step=2048), 1000, {}),
        ("rotary", PLAIN, AdamwConfig(tokens_per_step=2048), 1000, {"dtype": "bfloat16"}),
        ("t5", PAPERS, NagConfig(tokens_per_step=2048), 8000, {}),
        ("alibi", PLAIN, AdamwConfig(tokens_per_step=1024, micro_batch_size=2), 40_000, {}),
        (
            "sinusoidal",
            replace(PLAIN, d_model=256, d_ff=1024, n_layers=4),
            NagConfig(tokens_per_step=4096),
            4000,
            {},
        ),
    ],
)
def test_memory_is_what_is_measured(
    position: str, sizes: ModelConfig, optim: OptimConfig, vocab_size: int, changes: dict[str, Any]
) -> None:
    config = Config(
        position=SCHEMES[position][0](), model=sizes, optim=optim, train_length=256, **changes
    )
    predicted = cost(config, Text(vocab_size, None)).memory
    assert predicted == pytest.approx(measured_memory(config, vocab_size), rel=0.15)


@functools.cache
def papers(position: str, length: int) -> Config:
    overrides = [f"position={position}", f"train_length={length}", "data=wikitext103"]
    (member,) = plan(["experiment=extrapolation", "scale=paper", *overrides])
    return member.config


def test_the_papers_model_by_hand() -> None:
    config = papers("alibi", 512)
    found = cost(config, text_of(config))
    assert found.parameters == 246_933_504
    assert found.train_tokens == 286_000 * 73_728 == 21_086_208_000
    layers = 16 * (4 * 1024**2 + 2 * 1024 * 4096)
    attention = 16 * 2 * 1024 * (512 + 1) / 2  # q k and attention v of half the keys
    head = 20_002 * 1024
    by_hand = 21_086_208_000 * 6 * (layers + attention + head)
    assert found.train_flops == pytest.approx(by_hand, rel=0.02)
    # Table 2: every length reads the 217,646 tokens in whole blocks.
    lengths = config.evaluation.lengths_of(512)
    assert {512, 513, 522, 612, 712, 1512, 2512, 15_512} <= set(lengths)
    assert found.evaluation_tokens == sum(-(-217_646 // n) * n for n in lengths)


def test_every_published_length_is_evaluated() -> None:
    evaluation = papers("alibi", 512).evaluation
    for group, curves in perplexities().items():
        if group.study.dataset == WIKITEXT and group.protocol == "nonoverlapping":
            for curve in curves:
                assert set(curve.points) <= set(evaluation.lengths_of(curve.train_length))


def test_hours_follow_from_the_throughput() -> None:
    config = papers("sinusoidal", 3072)
    found = cost(config, text_of(config), "cuda", 8)
    machine = named_machine("V100", 8, 0.35, config)
    assert machine.training == pytest.approx(8 * 0.35 * 125e12)
    assert machine.evaluation == pytest.approx(8 * 0.35 * 15.7e12)  # in float32
    costs, notes = table(["one"], [config], [text_of(config)], [machine])
    line = dict(zip(costs.head, costs.body[0], strict=True))
    seconds = found.train_flops / machine.training
    assert float(line["hours"]) == pytest.approx(seconds / 3600, rel=5e-3)
    rate = float(line["training: tokens/s"].replace(",", ""))
    assert rate == pytest.approx(found.train_tokens / seconds, rel=1e-3)
    assert notes == []


def test_what_fits() -> None:
    """A V100 does not hold 73,728 tokens of the paper's model; it holds a share of them."""
    config = papers("alibi", 512)
    text, small = text_of(config), named_machine("V100", 1, 0.35, config)
    assert cost(config, text, "cuda").memory > small.memory
    fits = fitting(config, text, small)
    assert fits is not None and 144 % fits == 0
    fitted = replace(config, optim=replace(config.optim, micro_batch_size=fits))
    assert cost(fitted, text, "cuda").memory <= small.memory
    assert fitting(config, text, replace(small, memory=1e9)) is None


def test_what_is_known_of_the_text(text_file: Any, tmp_path: Any) -> None:
    words = WordsConfig(layout="fairseq")
    config = Config(data=WikitextConfig(), tokenizer=words, cache=str(tmp_path))
    assert text_of(config) == Text(267_744, 217_646)
    assert text_of(replace(config, tokenizer=WordsConfig())) == Text(267_735, 217_646)
    assert text_of(replace(config, tokenizer=BpeConfig(vocab_size=500))) == Text(500, None)
    mine = replace(config, data=TextConfig(train=[str(text_file)], held_out=0.2))
    with pytest.raises(UserError, match=r"is not known before the text is read: run scripts/prep"):
        text_of(mine)
    data = prepare(mine.data, words, tmp_path)
    assert text_of(mine) == Text(data.vocab_size, data.split("validation").tokens)


def test_this_machine(small_config: Callable[..., Config]) -> None:
    machine = this_machine(small_config(), Text(300, None))
    assert machine.device == "cpu" and machine.training > 1e6 and machine.memory > 2**28


def test_script(in_process: Callable[..., CompletedProcess[str]]) -> None:
    papers_own = ["experiment=extrapolation", "scale=paper", "data=wikitext103"]
    one = [*papers_own, "position=alibi", "train_length=512"]
    done = in_process("plan", *one, "--hardware", "V100")
    assert done.returncode == 0, done.stderr
    assert "246,933,504" in done.stdout and "21,086,208,000" in done.stdout
    assert "warning: alibi L512 s0: a training step needs" in done.stdout
    assert "optim.micro_batch_size=" in done.stdout
    assert "hours on 1 x V100 at 35% of the data sheet (float16, evaluation float32)" in done.stdout
    done = in_process("plan", "position=none", "model.n_layers=1,2", "optim=adamw")
    assert "none L64 s0 model.n_layers=1 " in done.stdout and "name --hardware" in done.stdout
    done = in_process("plan", *one, "--tokens-per-second", "28300", "evaluation.lengths=[2000000]")
    hours = 21_086_208_000 / 28_300 / 3600
    assert f"{hours:,.0f}" in done.stdout
    done = in_process("plan", *one, "--hardware", "V100", "evaluation.lengths=[2000000]")
    assert "evaluation at 2,000,000 needs" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "0"], "--devices: given 0"),
        (["--devices", "7"], "7 processes cannot share the 16 sequences of a step"),
        (["experiment=quickstart", "scale=small"], "scale goes with an experiment that has scales"),
        (["model.cutoffs=[20000]"], "has only 1,024 tokens"),
    ],
)
def test_bad_input(
    in_process: Callable[..., CompletedProcess[str]], arguments: list[str], words: str
) -> None:
    done = in_process("plan", *arguments)
    assert done.returncode == 2 and words in done.stderr
    assert "Traceback" not in done.stderr
