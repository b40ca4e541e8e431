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
from torch import Tensor

from alibi_lm.attention import BACKEND_MEANING, BACKENDS, Circumstances
from alibi_lm.benchmark.flops import flops_per_token
from alibi_lm.benchmark.hardware import peak_flops
from alibi_lm.benchmark.peers import PEERS, Peer, check_peers
from alibi_lm.benchmark.rows import OURS, PHASES, TRAINING, Speed, speeds_csv
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.evaluation.protocols import Nonoverlapping
from alibi_lm.evaluation.rows import COMPLETE, OUT_OF_MEMORY
from alibi_lm.evaluation.score import reader, score
from alibi_lm.machine.device import resolve_device
from alibi_lm.machine.files import write_atomically
from alibi_lm.machine.memory import is_out_of_memory, prepare_memory
from alibi_lm.machine.names import DEVICE_MEANING, DEVICES, DTYPE_MEANING, DTYPES
from alibi_lm.machine.progress import bar
from alibi_lm.machine.provenance import environment
from alibi_lm.model.config import ModelConfig
from alibi_lm.model.decoder import Decoder
from alibi_lm.positions import Draws, PositionConfig
from alibi_lm.positions.base import cannot_compute
from alibi_lm.positions.spec import label, read_spec
from alibi_lm.settings import missing, out_of_bounds, setting
from alibi_lm.training.loop import build_scaler, compile_blocks, draws, update
from alibi_lm.training.optim import AdamwConfig, OptimConfig, build_optimizer

PRODUCT = {"cpu": 2048, "cuda": 8192}  # side of the square matrices whose product is the yardstick
WARM_UP = 2  # rounds that are not counted: memory is claimed, kernels are chosen


@dataclass
class BenchmarkConfig:
    """What is measured by scripts/benchmark.py."""

    positions: list[Any] = setting(
        ["none", "sinusoidal", "rotary", "t5", "alibi"], "schemes: names or {kind:...}"
    )
    lengths: list[int] = setting([512, 1024, 2048], "tokens of a sequence", at_least=1)
    phases: list[str] = setting(list(PHASES), "update the weights; score text", choices=PHASES)
    peers: list[str] = setting([], "libraries to compare with, in turns", choices=tuple(PEERS))
    model: ModelConfig = setting(ModelConfig, "the decoder's sizes")
    vocab_size: int = setting(2048, "tokens in the vocabulary", at_least=1)
    tokens: int = setting(4096, "tokens of a step, at least one sequence", at_least=1)
    rounds: int = setting(7, "timed steps of each", at_least=1)
    dtype: str = setting("float32", DTYPE_MEANING, choices=DTYPES)
    device: str = setting("auto", DEVICE_MEANING, choices=DEVICES)
    backend: str = setting("auto", BACKEND_MEANING, choices=("auto", *BACKENDS))
    compile: bool = setting(False, "torch.compile the blocks in training")
    checkpointing: bool = setting(
        False, "recompute blocks in the backward pass: less memory, slower"
    )
    output: str = setting("outputs/benchmark", "folder for the results")

    def problems(self) -> list[str]:
        """There must be something to measure, and each thing once."""
        problems = out_of_bounds(self) + self.model.problems()
        examples = {"positions": "[none,alibi]", "lengths": "[512]", "phases": "[training]"}
        problems += missing(self, examples)
        try:
            schemes = self.schemes
        except SettingsError as error:
            return problems + error.problems
        for key in ("positions", "lengths", "phases", "peers"):
            given = getattr(self, key)
            if len(schemes if key == "positions" else set(given)) < len(given):
                problems.append(f"{key}: given {given}, but each only once")
        if self.peers and (self.compile or self.checkpointing):
            problems.append(
                "compile, checkpointing: given true, but peers are measured without; leave out "
                f"peers={self.peers}"
            )
        if not self.output:
            problems.append("output: given '', but it must name a folder")
        if not problems:
            for settings in schemes.values():
                for length in self.lengths:
                    problems += settings.problems(self.model.sizes(length))
        return problems

    @property
    def schemes(self) -> dict[str, PositionConfig]:
        """The schemes by what rows call them; a SettingsError if one is none."""
        settings = [read_spec(spec, "positions") for spec in self.positions]
        return {label(each): each for each in settings}


@dataclass
class Contestant:
    """A model, how it is trained, and what was measured of it."""

    library: str
    position: str
    model: Decoder | Peer
    optim: OptimConfig
    dtype: str
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    flops_per_token: float  # of a forward pass
    seconds: list[float] = field(default_factory=list)
    first_seconds: float | None = None
    peak_memory: int | None = None
    out_of_memory: bool = False


def benchmark(config: BenchmarkConfig) -> list[Speed]:
    """Measure every scheme and peer at every length; results.csv grows length by length."""
    device = resolve_device(config.device)
    schemes = config.schemes
    check_peers(config.peers, list(schemes), config.model)
    training = TRAINING in config.phases
    dropout = training and config.model.attention_dropout > 0
    here = Circumstances(device.type, training, dropout)
    for settings in schemes.values():
        if why := cannot_compute(settings, config.backend, max(config.lengths), here):
            raise UserError(f"backend: given {config.backend}, but {why}")
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    prepare_memory(device)
    n_contestants = sum(
        1 + sum(position in PEERS[peer].positions for peer in config.peers) for position in schemes
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
    for position, settings in config.schemes.items():
        optim = AdamwConfig(tokens_per_step=n_sequences * length)
        ours = Decoder(
            config.model,
            settings,
            config.vocab_size,
            length,
            backend=config.backend,
            checkpointing=config.checkpointing,
        ).to(device)
        if config.compile and phase == TRAINING:
            compile_blocks(ours)
        flops = flops_per_token(ours, config.vocab_size, length)
        optimizer, dtype = build_optimizer(ours, optim), config.dtype
        scaler = build_scaler(dtype, device, optim.tokens_per_step)
        yield Contestant(OURS, position, ours, optim, dtype, optimizer, scaler, flops)
        for name in config.peers:
            if position in PEERS[name].positions:
                peer = PEERS[name].build(config.model, position, config.vocab_size, length)
                peer.to(device)
                adamw = torch.optim.AdamW(peer.parameters(), lr=optim.lr, fused=True)
                scaler = build_scaler(dtype, device, optim.tokens_per_step)
                yield Contestant(name, position, peer, optim, dtype, adamw, scaler, flops)


def _train(contestant: Contestant, stream: np.ndarray, length: int, device: torch.device) -> None:
    """One optimizer update: the real one, on random tokens."""
    model = contestant.model
    model.train()
    inputs, targets = (
        torch.from_numpy(part.reshape(-1, length)).to(device) for part in (stream[:-1], stream[1:])
    )
    is_ours, drawn = isinstance(model, Decoder), draws(0, 0, len(inputs))
    update(
        model,
        contestant.optimizer,
        inputs,
        targets,
        contestant.optim.grad_clip,
        dtype=contestant.dtype,
        scaler=contestant.scaler,
        draws=Draws(drawn.update, drawn.sequences.to(device)) if is_ours else None,
    )


def _evaluate(
    contestant: Contestant, stream: np.ndarray, length: int, device: torch.device
) -> None:
    """Score the stream in blocks of the length, as evaluation does."""
    model = contestant.model
    model.eval()
    losses_of = reader(model, device, contestant.dtype)
    score(losses_of, stream, Nonoverlapping(length), batch_tokens=len(stream) - 1)


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
    passes = 3 if phase == TRAINING else 1  # the backward pass takes twice the forward's
    flops = contestant.flops_per_token * passes * tokens
    memory = contestant.peak_memory if complete else None
    return Speed(
        library=contestant.library,
        position=contestant.position,
        length=length,
        phase=phase,
        dtype=config.dtype,
        backend=contestant.model.backend,
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
