"""A row of results for the tests to vary."""

import math

from alibi_lm.results import Row

ROW = Row(
    position="alibi",
    train_length=64,
    eval_length=128,
    protocol="nonoverlapping",
    stride=128,
    seed=0,
    dataset="stdlib",
    split="validation",
    tokenizer="bpe",
    tokens=1000,
    words=300,
    bytes=2500,
    loss=3.25,
    ppl=math.exp(3.25),
    word_ppl=1e4 / 3,
    bpb=0.1 + 0.2,
    nonfinite=0,
    n_parameters=10,
    vocab_size=1024,
    train_tokens=100,
    dtype="float32",
    backend="separable",
    device="cpu",
    seconds=0.5,
    data_hash="d",
    tokenizer_hash="t",
    commit=None,
    dirty=None,
    torch="2.13.0",
    recipe="r",
    run="stdlib-alibi",
)
