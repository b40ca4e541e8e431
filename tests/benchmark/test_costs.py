"""Costs that are predicted against those that are measured, and the paper's by hand."""

import functools
from collections.abc import Callable
from dataclasses import replace
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from samples import composed

from alibi_lm.attention import Form
from alibi_lm.benchmark.costs import (
    HEAD,
    Meter,
    PlanConfig,
    PlanSettings,
    Text,
    cost,
    fitting,
    machines,
    named_machine,
    plan_lines,
    text_of,
    this_machine,
)
from alibi_lm.benchmark.flops import flops_per_token, zipf_tokens
from alibi_lm.benchmark.measure import rise
from alibi_lm.config import Config
from alibi_lm.data.sources.text import TextConfig
from alibi_lm.data.sources.wikitext import WikitextConfig
from alibi_lm.data.tokenizers import BpeConfig, WordsConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Nonoverlapping
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import SCHEMES
from alibi_lm.report.published import WIKITEXT, perplexities
from alibi_lm.training.loop import update
from alibi_lm.training.optim import AdamwConfig, NagConfig, OptimConfig, build_optimizer

CPU = torch.device("cpu")
METER = Meter()  # shared: it measures each model once
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
    model = Decoder(
        config.model,
        config.position,
        vocab_size,
        config.train_length,
        checkpointing=config.checkpointing,
    )
    optimizer = build_optimizer(model, config.optim)
    n, length = config.sequences_per_step, config.train_length
    rows = zipf_tokens(vocab_size, n * (length + 1)).view(n, length + 1)
    how = {"dtype": config.dtype, "passes": config.grad_accum_steps()}

    def step() -> None:
        update(model, optimizer, rows[:, :-1], rows[:, 1:], 1.0, **how)

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
        position=SCHEMES.settings[position](), model=sizes, optim=optim, train_length=256, **changes
    )
    predicted = cost(config, Text(vocab_size, None), METER).memory
    assert predicted == pytest.approx(measured_memory(config, vocab_size), rel=0.15)


@functools.cache
def papers(position: str, length: int) -> PlanConfig:
    overrides = [f"position={position}", f"train_length={length}", "data=wikitext103"]
    preset = ["experiment=extrapolation", "scale=paper", "plan.hardware=V100"]
    config: PlanConfig = composed(*preset, *overrides, kind=PlanConfig)
    return config


def test_the_papers_model_by_hand() -> None:
    config = papers("alibi", 512)
    vocab_size = text_of(config).vocab_size
    assert METER.parameters(config, vocab_size) == 246_933_504
    assert config.optim.train_tokens == 286_000 * 73_728 == 21_086_208_000
    layers = 16 * (4 * 1024**2 + 2 * 1024 * 4096)
    attention = 16 * 2 * 1024 * (512 + 1) / 2  # q k and attention v of half the keys
    head = 20_002 * 1024
    by_hand = 2 * (layers + attention + head)
    assert METER.flops(config, vocab_size, 512) == pytest.approx(by_hand, rel=0.02)
    # Table 2: every length reads the 217,646 tokens in whole blocks.
    lengths = config.evaluation.lengths_of(512)
    assert {512, 513, 522, 612, 712, 1512, 2512, 15_512} <= set(lengths)


def small(position: str, length: int, **plan: Any) -> PlanConfig:
    """The paper's model five times narrower, on its text."""
    overrides = [f"position={position}", f"train_length={length}", "data=wikitext103"]
    preset = ["experiment=extrapolation", "scale=small", "tokenizer.vocab_size=20000"]
    config: PlanConfig = composed(*preset, *overrides, kind=PlanConfig)
    return replace(config, plan=PlanSettings(**plan))


def test_every_published_length_is_evaluated() -> None:
    evaluation = papers("alibi", 512).evaluation
    for group, curves in perplexities().items():
        if group.study.dataset == WIKITEXT and group.protocol == Nonoverlapping(0):
            for curve in curves:
                assert set(curve.points) <= set(evaluation.lengths_of(curve.train_length))


def test_hours_follow_from_the_throughput() -> None:
    config = small("sinusoidal", 384, hardware="V100", devices=6)
    config = replace(
        config, dtype="float16", evaluation=replace(config.evaluation, dtype="float32")
    )
    found, machine = cost(config, text_of(config), METER, 6), named_machine(config)
    assert machine.training == pytest.approx(6 * 0.35 * 125e12)
    assert machine.evaluation == pytest.approx(6 * 0.35 * 15.7e12)
    lengths = config.evaluation.lengths_of(384)
    assert found.evaluation_tokens == sum(-(-217_646 // n) * n for n in lengths)
    planned_for = machines([config], [text_of(config)], METER)
    assert planned_for == [machine]
    (line, _), notes = plan_lines(["one"], [config], [text_of(config)], METER, planned_for)
    cells = dict(zip(HEAD, line, strict=True))
    seconds = found.train_flops / machine.training
    assert float(cells["hours"]) == pytest.approx(seconds / 3600, rel=5e-3)
    rate = float(cells["training: tokens/s"].replace(",", ""))
    assert rate == pytest.approx(found.train_tokens / seconds, rel=1e-3)
    assert notes == []


def test_what_fits() -> None:
    """A machine that holds half of what an update takes holds a share of its sequences."""
    config = small("alibi", 64, hardware="V100")
    text = text_of(config)
    whole = cost(config, text, METER).memory
    machine = replace(named_machine(config), memory=0.5 * whole)
    fits = fitting(config, text, machine, METER)
    assert fits is not None and fits < 36 == config.sequences_per_step and 36 % fits == 0
    fitted = replace(config, optim=replace(config.optim, micro_batch_size=fits))
    assert cost(fitted, text, METER).memory <= machine.memory
    assert fitting(config, text, replace(machine, memory=1e6), METER) is None


def test_flops_by_hand() -> None:
    """Of a plain softmax; torch counts the products, the keys that a query sees are averaged."""
    d, ff, layers, vocab = 32, 64, 2, 50
    sizes = ModelConfig(n_layers=layers, n_heads=4, d_model=d, d_ff=ff)
    for position in SCHEMES.settings:
        settings = SCHEMES.settings[position]()
        net = Decoder(sizes, settings, vocab, 256)
        weights = vocab * d + layers * (4 * d * d + 2 * d * ff)
        keys = (1 + 2 + 3 + 4) / 4
        # Each key costs a query 2 d for the logit and 2 d for the sum of values.
        by_hand = 2 * weights + layers * keys * 4 * d
        found = flops_per_token(net, vocab, 4)
        on_logits = any(n.form is Form.ON_LOGITS for n in net.position.needs(settings, 4))
        if [*net.position.parameters()] or on_logits:
            assert by_hand <= found < 1.5 * by_hand  # with what schemes compute themselves
        else:
            assert found == pytest.approx(by_hand, rel=1e-4)


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
    """Twice the layers take about twice the time: the rate is that of the operations."""
    config = small_config()
    machine = this_machine(config, Text(300, None), METER)
    assert machine.measured and machine.n_devices == 1
    assert 2**28 < machine.memory < 2**44
    assert machine.training == machine.evaluation


def test_script(in_process: Callable[..., CompletedProcess[str]]) -> None:
    one = ["experiment=extrapolation", "scale=small", "data=wikitext103", "position=alibi"]
    one += ["train_length=64", "optim.tokens_per_step=23040000", "dtype=float16"]
    lengths = "evaluation.lengths=[50000000]"
    done = in_process("plan", *one, "plan.hardware=V100", lengths, "evaluation.dtype=float32")
    assert done.returncode == 0, done.stderr
    assert "217,646" not in done.stdout  # it is read in one block of the length
    assert "warning: alibi L64 s0: a training step needs" in done.stdout
    assert "optim.micro_batch_size=" in done.stdout
    assert "hours on 1 x V100 at 35% of the data sheet (float16, evaluation float32)" in done.stdout
    assert "evaluation at 50,000,000 needs" in done.stdout
    done = in_process("plan", "position=none", "model.n_layers=1,2", "optim=adamw")
    assert (
        "none L64 s0 model.n_layers=1 " in done.stdout and "for hours give plan.hard" in done.stdout
    )
    done = in_process("plan", "position=none", "plan.tokens_per_second=1000")
    assert f"{500 * 1024 / 1000 / 3600:.3g}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan.devices=0"], "plan.devices: given 0"),
        (["plan.devices=7"], "7 processes cannot share the 16 sequences of a step"),
        (["plan.measure=true", "plan.devices=2"], "plan.devices: goes with plan.hardware"),
        (["plan.devices=1,2"], "given several machines; plan for one at a time"),
        (["plan.measure=true", "plan.hardware=A100"], "but only one may be given"),
        (["plan.hardware=B100"], "plan.hardware: given 'B100', but it must be one of"),
        (["plan.efficiency=-1"], "plan.efficiency: given -1.0"),
        (["plan.tokens_per_second=0"], "plan.tokens_per_second: given 0.0"),
        (["tokenizer=words", "cache=CACHE"], "the vocabulary of tokenizer=words is not known"),
        (["position=albi"], "did you mean alibi?"),
    ],
)
def test_bad_input(
    in_process: Callable[..., CompletedProcess[str]],
    tmp_path: Any,
    arguments: list[str],
    words: str,
) -> None:
    arguments = [a.replace("CACHE", str(tmp_path / "none")) for a in arguments]
    done = in_process("plan", *arguments)
    assert done.returncode == 2
    assert words in done.stderr, done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
