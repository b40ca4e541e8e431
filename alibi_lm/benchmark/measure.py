"""Rounds of training steps and of scoring, in turns, timed; and the memory of one round of each.

Everything that is compared takes turns in one process, so that a machine whose speed drifts is as
fast for the one as for the other: first all at one length, then all at the next.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alibi_lm.benchmark.hardware import peak_flops
from alibi_lm.benchmark.peers import PEERS, check_peers
from alibi_lm.benchmark.rows import OURS, TRAINING, Speed, speeds_csv
from alibi_lm.config import AdamwConfig, BenchmarkConfig, Config
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import Protocol
from alibi_lm.evaluation.rows import COMPLETE, OUT_OF_MEMORY
from alibi_lm.evaluation.score import reader, score
from alibi_lm.machine.device import resolve_device
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.memory import fail_when_memory_runs_out, is_out_of_memory, keep_freed_memory
from alibi_lm.machine.progress import bar
from alibi_lm.machine.provenance import environment
from alibi_lm.model.decoder import Decoder, check_backend
from alibi_lm.positions import SCHEMES, build_position
from alibi_lm.training.loop import compile_blocks, update
from alibi_lm.training.optim import build_optimizer

PRODUCT = {"cpu": 2048, "cuda": 8192}  # side of the square matrices whose product is the yardstick
WARM_UP = 2  # rounds that are not counted: memory is claimed, kernels are chosen


@dataclass
class Contestant:
    """A model, the configuration that it is trained by, and what was measured of it."""

    library: str
    position: str
    model: nn.Module
    config: Config
    backend: str
    optimizer: torch.optim.Optimizer
    training_flops_per_token: float
    seconds: list[float] = field(default_factory=list)
    first_seconds: float | None = None
    peak_memory: int | None = None
    out_of_memory: bool = False


def benchmark(config: BenchmarkConfig) -> list[Speed]:
    """Measure every scheme and peer at every length; results.csv grows length by length."""
    device = resolve_device(config.device)
    check_peers(config.peers, config.positions, config.model)
    for name in config.positions:
        position = build_position(SCHEMES[name][0](), config.model)
        training, dropout = TRAINING in config.phases, config.model.attention_dropout
        check_backend(
            config.backend, position, device.type, training=training, dropout=dropout * training
        )
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    if device.type == "cpu":
        fail_when_memory_runs_out()
    n_contestants = sum(
        1 + sum(position in PEERS[peer].positions for peer in config.peers)
        for position in config.positions
    )
    n_rounds = len(config.lengths) * len(config.phases) * (WARM_UP + 1 + config.rounds)
    rows: list[Speed] = []
    where = environment(device)
    with bar(total=n_rounds * n_contestants, unit="round", desc="benchmark") as progress:
        for length in config.lengths:
            for phase in config.phases:
                progress.set_postfix_str(f"{phase} {length}")
                rows += _measure(config, device, where, length, phase, progress.update)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                write_atomically(folder / "results.csv", speeds_csv(rows))
    return rows


def _measure(
    config: BenchmarkConfig,
    device: torch.device,
    where: dict[str, Any],
    length: int,
    phase: str,
    advance: Callable[[], object],
) -> list[Speed]:
    """All contestants at one length, in turns; their models are all held at once."""
    try:
        contestants = list(_contestants(config, length, phase, device))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "positions, peers: memory ran out while their models were built, which are measured "
            "in turns and held together; give fewer at a time, or a smaller model"
        ) from error
    n_sequences = max(1, config.tokens // length)
    generator = np.random.default_rng(0)
    stream = generator.integers(config.vocab_size, size=n_sequences * length + 1, dtype=np.int64)
    rounds = {
        id(c): partial(_train if phase == TRAINING else _evaluate, c, stream, length, device)
        for c in contestants
    }
    clock, product = _clock(device), _product(config.dtype, device)
    product_seconds: list[float] = []
    for number in range(WARM_UP + 1 + config.rounds):
        # In another order each time: what runs before leaves caches as it likes.
        for place in generator.permutation(len(contestants)):
            contestant = contestants[place]
            if not contestant.out_of_memory:
                _take_turn(contestant, rounds[id(contestant)], number, phase, device, clock)
            advance()
        started = clock()
        product()
        if number > WARM_UP:
            product_seconds.append(clock() - started)
    measured = 2 * PRODUCT[device.type] ** 3 / statistics.median(product_seconds)
    limit = peak_flops(device, config.dtype) or (measured, "a large product, measured in turns")
    return [
        _row(config, where, length, phase, c, contestants, n_sequences * length, limit)
        for c in contestants
    ]


def _take_turn(
    contestant: Contestant,
    action: Callable[[], None],
    number: int,
    phase: str,
    device: torch.device,
    clock: Callable[[], float],
) -> None:
    """Time a round; the one after the warm-up is not timed, its memory is counted instead."""
    started = clock()
    try:
        if number == WARM_UP:
            contestant.peak_memory = _held(contestant, phase) + rise(action, device)
        else:
            action()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        contestant.out_of_memory = True
        contestant.optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    seconds = clock() - started
    if number == 0:
        contestant.first_seconds = seconds
    if number > WARM_UP:
        contestant.seconds.append(seconds)


def _contestants(
    config: BenchmarkConfig, length: int, phase: str, device: torch.device
) -> Iterator[Contestant]:
    """Every scheme of ours, followed by the peers that have it."""
    n_sequences = max(1, config.tokens // length)
    for position in config.positions:
        run = Config(
            position=SCHEMES[position][0](),
            model=config.model,
            optim=AdamwConfig(tokens_per_step=n_sequences * length),
            train_length=length,
            dtype=config.dtype,
        )
        ours = Decoder(
            config.model,
            run.position,
            config.vocab_size,
            backend=config.backend,
            checkpointing=config.checkpointing,
        ).to(device)
        if config.compile and phase == TRAINING:
            compile_blocks(ours)
        flops, optimizer = ours.training_flops_per_token(length), build_optimizer(ours, run.optim)
        with torch.set_grad_enabled(phase == TRAINING):
            backend = ours.backend(length)
        yield Contestant(OURS, position, ours, run, backend, optimizer, flops)
        for name in config.peers:
            if position in PEERS[name].positions:
                peer, backend = PEERS[name].build(config.model, position, config.vocab_size, length)
                peer = peer.to(device)
                adamw = torch.optim.AdamW(peer.parameters(), lr=run.optim.lr, fused=True)
                yield Contestant(name, position, peer, run, backend, adamw, flops)


def _train(contestant: Contestant, stream: np.ndarray, length: int, device: torch.device) -> None:
    """One optimizer update: the real one, on random tokens."""
    model = contestant.model.train()
    inputs, targets = (
        torch.from_numpy(part.reshape(-1, length)).to(device) for part in (stream[:-1], stream[1:])
    )
    update(model, contestant.optimizer, inputs, targets, contestant.config, device)


def _evaluate(
    contestant: Contestant, stream: np.ndarray, length: int, device: torch.device
) -> None:
    """Score the stream in blocks of the length, as evaluation does."""
    losses_of = reader(contestant.model.eval(), device, contestant.config.dtype)
    protocol = Protocol("nonoverlapping", length, "validation", stride=length)
    score(losses_of, stream, protocol, batch_tokens=len(stream) - 1)


def _held(contestant: Contestant, phase: str) -> int:
    """Bytes of the model, and in training of the optimizer's state, between two rounds."""
    tensors = [*contestant.model.parameters(), *contestant.model.buffers()]
    if phase == TRAINING:
        for state in contestant.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def rise(action: Callable[[], None], device: torch.device) -> int:
    """The most bytes of tensors that an action holds at once above what there was before it.

    Counted, not sampled: the same on each run, whatever the allocator keeps.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own announcements
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        action()
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    sizes = np.array([size for _, size in sorted(events, key=lambda event: event[0])])
    return int(sizes.cumsum().max(initial=0))


def _product(dtype: str, device: torch.device) -> Callable[[], Tensor]:
    side = PRODUCT[device.type]
    matrix = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    return lambda: torch.mm(matrix, matrix)


def _clock(device: torch.device) -> Callable[[], float]:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def _row(
    config: BenchmarkConfig,
    where: dict[str, Any],
    length: int,
    phase: str,
    contestant: Contestant,
    contestants: list[Contestant],
    tokens: int,
    limit: tuple[float, str],
) -> Speed:
    def ours(position: str) -> Contestant | None:
        found = (c for c in contestants if (c.library, c.position) == (OURS, position))
        return next((c for c in found if not c.out_of_memory), None)

    def time_ratio(other: Contestant | None) -> float | None:
        if contestant.out_of_memory or other is None:
            return None
        pairs = zip(contestant.seconds, other.seconds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    is_peer, complete = contestant.library != OURS, not contestant.out_of_memory
    none = ours("none")
    seconds = statistics.median(contestant.seconds) if complete else None
    passes = 1.0 if phase == TRAINING else 1 / 3  # forward is a third of forward and backward
    flops = contestant.training_flops_per_token * passes * tokens
    memory = contestant.peak_memory if complete else None
    return Speed(
        library=contestant.library,
        position=contestant.position,
        length=length,
        phase=phase,
        dtype=config.dtype,
        backend=contestant.backend,
        status=COMPLETE if complete else OUT_OF_MEMORY,
        tokens=tokens,
        rounds=config.rounds,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else None,
        time_ratio=time_ratio(none),
        time_ratio_to_ours=time_ratio(ours(contestant.position)) if is_peer else None,
        peak_memory_bytes=memory,
        memory_ratio=memory / none.peak_memory if memory and none and none.peak_memory else None,
        flops_per_second=flops / seconds if seconds else None,
        limit_flops_per_second=limit[0],
        limit=limit[1],
        share=flops / seconds / limit[0] if seconds else None,
        first_step_seconds=contestant.first_seconds if complete else None,
        compile=config.compile and phase == TRAINING and not is_peer,
        checkpointing=config.checkpointing and not is_peer,
        n_parameters=sum(p.numel() for p in contestant.model.parameters()),
        vocab_size=config.vocab_size,
        model=" ".join(f"{key}={value}" for key, value in asdict(config.model).items()),
        device=where["device"],
        cpu=where["cpu"],
        threads=where["threads"],
        torch=torch.__version__,
        version=PEERS[contestant.library].version if is_peer else where["commit"] or "",
        dirty=None if is_peer else where["dirty"],
    )
