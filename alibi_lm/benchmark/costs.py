"""What a run costs before it is run: parameters, tokens, operations, memory, disk, time.

No text is read but its counts. Operations are counted by torch; memory is measured in real steps of
the model with one and two layers at two sizes, in both of which it is linear. On a CPU the result
is within 15 % of what a whole step holds; a GPU's was not measured.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alibi_lm.attention import Circumstances
from alibi_lm.benchmark.flops import attention_flops, weight_flops, zipf_tokens
from alibi_lm.benchmark.hardware import DATA_SHEETS
from alibi_lm.benchmark.measure import rise
from alibi_lm.config import Config
from alibi_lm.data.dictionary import count_words, in_fairseq_layout, read_dictionary
from alibi_lm.data.sources.wikitext import ORIGINAL, ORIGINAL_TYPES, WikitextConfig
from alibi_lm.data.tokenizers import BpeConfig, WordsConfig
from alibi_lm.data.tokens import find_prepared
from alibi_lm.errors import UserError
from alibi_lm.evaluation.protocols import measurements
from alibi_lm.machine.device import autocast, resolve_device
from alibi_lm.machine.memory import available_memory, keep_freed_memory
from alibi_lm.machine.progress import bar
from alibi_lm.model.decoder import Decoder, build_softmax, check_vocabulary
from alibi_lm.model.softmax import LOGITS_AT_ONCE
from alibi_lm.positions.base import cannot_compute
from alibi_lm.settings import setting
from alibi_lm.training.loop import build_scaler, update
from alibi_lm.training.optim import build_optimizer

FLOAT = 4  # bytes
UNKNOWN = "?"  # until the text is tokenized
TIMED = 2048  # tokens of a step that is timed, at least one sequence
SHORT = 512  # length of the sequences in which memory is measured
LONG = 2**14  # tokens from which memory is taken to be linear at the latest
ROUNDS = 3
CPU = torch.device("cpu")


@dataclass
class PlanSettings:
    """Which machine a sweep is planned for; without any, no hours are given."""

    hardware: str | None = setting(None, "GPUs of this data sheet", choices=tuple(DATA_SHEETS))
    devices: int = setting(1, "how many GPUs share a run", at_least=1)
    efficiency: float = setting(0.35, "share of the data sheet that is reached", above=0)
    tokens_per_second: float | None = setting(
        None, "known training speed of the first member; others by their operations", above=0
    )
    measure: bool = setting(False, "time a few steps of each member here")


@dataclass
class PlanConfig(Config):
    """The settings of a sweep, and of the machine that it is planned for."""

    plan: PlanSettings = setting(PlanSettings, "the machine that a sweep is planned for")

    def problems(self) -> list[str]:
        """One way to know the speed, and sequences that the devices can share."""
        problems = super().problems()
        given = [key for key in ("hardware", "tokens_per_second", "measure") if self._has(key)]
        if len(given) > 1:
            problems.append(f"plan: given {' and '.join(given)}, but only one may be given")
        if self.plan.measure and self.plan.devices != 1:
            problems.append("plan.devices: goes with plan.hardware or plan.tokens_per_second")
        return problems or self.sharing_problems(self.plan.devices)

    def _has(self, key: str) -> bool:
        return bool(getattr(self.plan, key))


@dataclass(frozen=True)
class Text:
    """What is known of a run's text before it is read."""

    vocab_size: int
    targets: int | None  # tokens of the split that is evaluated; None: not yet tokenized


def text_of(config: Config) -> Text:
    """What is known of the text: from its settings, from token files, or of WikiText-103.

    A UserError if the vocabulary is not known.
    """
    data, tokenizer, split = config.data, config.tokenizer, config.evaluation.split
    there = None
    if not (isinstance(data, WikitextConfig) and data.path is None):  # the hub is not asked
        there = find_prepared(data, tokenizer, Path(config.cache))
    if there is not None:
        targets = there.splits[split].tokens if split in there.splits else None
        return Text(there.vocab_size, targets)
    original = isinstance(data, WikitextConfig) and data.edition == "wikitext-103-v1"
    if isinstance(tokenizer, WordsConfig):
        targets = ORIGINAL[split] if original else None
        if tokenizer.dictionary is not None:
            return Text(count_words(read_dictionary(Path(tokenizer.dictionary))), targets)
        types = ORIGINAL_TYPES if original else tokenizer.vocab_size
        if types is not None:
            types = min(types, tokenizer.vocab_size or types)
            fill = tokenizer.layout == "fairseq"
            size = len(in_fairseq_layout([str(i) for i in range(types - 2)])) if fill else types
            return Text(size, targets)
    if isinstance(tokenizer, BpeConfig):
        return Text(tokenizer.vocab_size, None)
    raise UserError(
        f"the vocabulary of tokenizer={tokenizer.kind} is not known before the text is read: run "
        "scripts/prepare.py with the same settings first, or set tokenizer.vocab_size"
    )


@dataclass(frozen=True)
class Cost:
    """One run's."""

    parameters: int
    train_tokens: int
    train_flops: float
    evaluation_tokens: int | None  # read by all protocols at all lengths; None: not yet known
    evaluation_flops: float | None
    memory: int  # bytes that a training step holds at once, on each device
    evaluation_memory: dict[int, int]  # the same of evaluation, at each length
    disk: int  # bytes of the run folder at its largest


class Meter:
    """What models of these settings take, from small real ones; each is measured once.

    Everything is linear in layers from the first on, so models of one and two layers tell. Their
    weights are left undefined: what they hold and how they multiply does not depend on values.
    """

    def __init__(self) -> None:
        self._known: dict[str, float] = {}

    def parameters(self, config: Config, vocab_size: int) -> int:
        """Trainable numbers."""
        return int(self._by_layer(config, vocab_size, "n", lambda model: model.n_parameters))

    def output_parameters(self, config: Config, vocab_size: int) -> int:
        """Those of the layer that embeds and scores tokens."""
        with torch.device("meta"):
            return sum(p.numel() for p in build_softmax(config.model, vocab_size).parameters())

    def flops(self, config: Config, vocab_size: int, length: int) -> float:
        """Operations of a forward pass per token at a length."""
        weights = self._by_layer(
            config, vocab_size, "flops", lambda model: weight_flops(model, vocab_size)
        )
        return weights + attention_flops(config.model.n_layers, config.model.d_model, length)

    def activations(self, config: Config, vocab_size: int, tokens: int, training: bool) -> float:
        """Bytes that a pass of that many tokens holds at its peak, beside weights and gradients.

        Linear in tokens from where logits are computed in chunks on; a small pass is run whole.
        """
        cutoffs = config.model.cutoffs
        rows = cutoffs[0] + len(cutoffs) if cutoffs else vocab_size
        chunk = LOGITS_AT_ONCE["training" if training else "evaluation"] // rows + 1
        length = min(config.train_length, SHORT)
        small = max(1, math.ceil(min(chunk, LONG) / length)) * length
        large = 2 * small

        def at(n: int) -> float:
            what = f"{n} tokens, {training}"
            return self._by_layer(
                config, vocab_size, what, lambda model: _peak(model, config, n, length, training)
            )

        if tokens < small:
            return at(tokens)
        return at(small) + (at(large) - at(small)) * (tokens - small) / (large - small)

    def _by_layer(
        self, config: Config, vocab_size: int, what: str, measure: Callable[[Decoder], float]
    ) -> float:
        def at(n_layers: int) -> float:
            sizes = replace(config.model, n_layers=n_layers)
            # What runs on a GPU only holds about as much as what auto chooses here.
            where = Circumstances(training=True, dropout=sizes.attention_dropout > 0)
            length = config.train_length
            cannot = cannot_compute(config.position, config.backend, length, where)
            backend = "auto" if cannot else config.backend
            how = (config.dtype, config.backend, config.checkpointing)
            of = (config.position.kind, config.position, sizes, vocab_size, length)
            key = repr((*of, how, what))
            if key not in self._known:
                model = Decoder(
                    sizes,
                    config.position,
                    vocab_size,
                    length,
                    seed=None,
                    backend=backend,
                    checkpointing=config.checkpointing,
                )
                self._known[key] = measure(model)
            return self._known[key]

        n_layers = config.model.n_layers
        return at(1) if n_layers == 1 else at(1) + (at(2) - at(1)) * (n_layers - 1)


def _peak(model: Decoder, config: Config, tokens: int, length: int, training: bool) -> int:
    """Bytes that a real pass holds at its peak, beside weights and gradients that are there."""
    vocab_size = sum(len(p) for n, p in model.embedding.named_parameters() if _embeds(n))
    length = length if tokens % length == 0 else tokens
    words = zipf_tokens(vocab_size, 2 * tokens)
    inputs, targets = words[:tokens].view(-1, length), words[tokens:].view(-1, length)

    # As many bytes as float16, whose products a CPU computes very slowly.
    dtype = "float32" if config.dtype == "float32" else "bfloat16"

    def step() -> None:
        with torch.set_grad_enabled(training), autocast(CPU, dtype):
            loss: Any = model(inputs, targets).sum()
        if training:
            loss.backward()

    for parameter in model.parameters() if training else ():
        parameter.grad = torch.zeros_like(parameter)
    return rise(step, CPU)


def _embeds(name: str) -> bool:
    return name == "weight" or name.startswith("bands.")


def cost(config: Config, text: Text, meter: Meter, n_devices: int = 1) -> Cost:
    """What the run of these settings costs on so many devices."""
    vocab_size = text.vocab_size
    check_vocabulary(config.model, vocab_size)
    n_parameters = meter.parameters(config, vocab_size)
    wanted = measurements(config.evaluation, config.train_length, "", config.dtype)
    if isinstance(config.evaluation.position, list):  # as often as it is read otherwise
        wanted *= len(config.evaluation.position)
    read, flops = None, None
    if text.targets is not None:
        reads = [m.protocol.n_read(text.targets) for m in wanted]
        per_token = [meter.flops(config, vocab_size, m.protocol.length) for m in wanted]
        read, flops = sum(reads), sum(a * b for a, b in zip(reads, per_token, strict=True))
    weights, losses = FLOAT * n_parameters, FLOAT * (text.targets or 0) * len(wanted)

    def held_at(length: int) -> int:
        tokens = max(length, config.evaluation.batch_tokens // length * length)
        return weights + int(meter.activations(config, vocab_size, tokens, training=False))

    return Cost(
        parameters=n_parameters,
        train_tokens=config.optim.train_tokens,
        train_flops=3
        * config.optim.train_tokens
        * meter.flops(config, vocab_size, config.train_length),
        evaluation_tokens=read,
        evaluation_flops=flops,
        memory=memory(config, vocab_size, meter, n_devices),
        evaluation_memory={
            n: held_at(n) for n in config.evaluation.lengths_of(config.train_length)
        },
        # Two checkpoints and the one that is being written; the weights.
        disk=3 * weights * (1 + _slots(config)) + weights + losses,
    )


def memory(config: Config, vocab_size: int, meter: Meter, n_devices: int = 1) -> int:
    """The most bytes that each device holds at once in a training step.

    A step peaks where the loss is differentiated (everything that the layers keep, and the logits)
    or at its end (all gradients).
    """
    passes = config.grad_accum_steps(n_devices)
    tokens = config.optim.tokens_per_step // n_devices // passes
    activations = meter.activations(config, vocab_size, tokens, training=True)
    weights = gradients = FLOAT * meter.parameters(config, vocab_size)
    output = FLOAT * meter.output_parameters(config, vocab_size)
    held = weights * (1 + _slots(config))
    if n_devices > 1 and config.parallel == "fsdp":  # weights, gradients and state are shared
        layer = (weights - output) / config.model.n_layers
        # Gradients that accumulate are not shared before the last pass.
        shared = held if passes > 1 else held + gradients
        return int(
            shared / n_devices + (gradients if passes > 1 else 0) + activations + output + layer
        )
    buckets = gradients if n_devices > 1 else 0  # in which DDP sends gradients
    at_loss = activations + (gradients if passes > 1 else output)
    return int(held + buckets + max(at_loss, gradients))


def _slots(config: Config) -> int:
    """Numbers that the optimizer keeps for each parameter: those of a real one, after a step."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = config.optim.build([parameter], [])
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    kept = optimizer.state[parameter].values()
    return sum(x.shape == parameter.shape for x in kept if isinstance(x, torch.Tensor))


@dataclass(frozen=True)
class Machine:
    """What runs are planned for: so many devices, each so fast and so large."""

    name: str
    n_devices: int
    memory: float  # bytes of each
    training: float  # operations per second of all devices, as reached
    evaluation: float
    measured: bool = False  # on the very runs, with all that they do


def machines(configs: Sequence[PlanConfig], texts: Sequence[Text], meter: Meter) -> list[Machine]:
    """The machine that each run is planned for, as the settings name it; empty if they do not."""
    plan = configs[0].plan
    if plan.hardware:
        return [named_machine(config) for config in configs]
    if plan.tokens_per_second:
        rate = known_speed(configs[0], texts[0], meter, plan.tokens_per_second)
        return [rate] * len(configs)
    if not plan.measure:
        return []
    known: dict[str, Machine] = {}
    with bar(total=len(configs), desc="measure", unit="run") as progress:
        for config, text in zip(configs, texts, strict=True):
            key = _speed_key(config)
            known[key] = known.get(key) or this_machine(config, text, meter)
            progress.update()
    return [known[_speed_key(config)] for config in configs]


def _speed_key(config: Config) -> str:
    """What decides how fast a run is."""
    how = (config.dtype, config.backend, config.checkpointing, config.tokenizer, config.optim)
    return repr((config.position.kind, config.position, config.model, config.train_length, *how))


def named_machine(config: PlanConfig) -> Machine:
    """Devices of a data sheet that reach a part of what it promises for the run's dtypes."""
    plan = config.plan
    assert plan.hardware is not None
    sheet, dtype = DATA_SHEETS[plan.hardware], config.evaluation.dtype or config.dtype
    name = f"{plan.devices} x {plan.hardware} at {plan.efficiency:.0%} of the data sheet"
    name += f" ({config.dtype}" + (")" if dtype == config.dtype else f", evaluation {dtype})")
    reached = plan.devices * plan.efficiency
    training, evaluation = reached * sheet.flops(config.dtype), reached * sheet.flops(dtype)
    return Machine(name, plan.devices, sheet.memory, training, evaluation)


def known_speed(config: PlanConfig, text: Text, meter: Meter, tokens_per_second: float) -> Machine:
    """A machine that is known to train this run that fast."""
    length = config.train_length
    rate = 3 * meter.flops(config, text.vocab_size, length) * tokens_per_second
    name = f"a machine that trains {config.position.kind} at {length} with "
    name += f"{tokens_per_second:,.0f} tokens/s"
    return Machine(name, config.plan.devices, math.inf, rate, rate, measured=True)


def this_machine(config: Config, text: Text, meter: Meter) -> Machine:
    """The machine here, as fast as it is in a few updates of random tokens of the run."""
    device, length = resolve_device(config.device), config.train_length
    keep_freed_memory()
    room = available_memory(device)
    model = Decoder(
        config.model,
        config.position,
        text.vocab_size,
        length,
        backend=config.backend,
        checkpointing=config.checkpointing,
    ).to(device)
    optimizer = build_optimizer(model, config.optim)
    n = max(1, min(config.optim.tokens_per_step // config.grad_accum_steps(), TIMED) // length)
    words = zipf_tokens(text.vocab_size, n * (length + 1)).view(n, -1).to(device)
    scaler = build_scaler(config.dtype, device, n * length)
    clip, seconds = config.optim.grad_clip, []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        inputs, targets = words[:, :-1], words[:, 1:]
        update(model, optimizer, inputs, targets, clip, dtype=config.dtype, scaler=scaler)
        seconds.append(time.perf_counter() - started)
    flops = 3 * n * length * meter.flops(config, text.vocab_size, length)
    rate = flops / statistics.median(seconds[1:])
    name = "this machine" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Machine(name, 1, room, rate, rate, measured=True)


def warnings(
    label: str, config: Config, text: Text, found: Cost, machine: Machine, meter: Meter
) -> list[str]:
    """A line for each thing that needs more memory than there is, with what would fit."""
    lines = []
    room = f"{machine.memory / 2**30:,.1f} GiB of {machine.name}"
    if found.memory > machine.memory:
        fits = fitting(config, text, machine, meter)
        advice = "checkpointing=true or a smaller model"
        advice = advice if fits is None else f"optim.micro_batch_size={fits}"
        need = f"{found.memory / 2**30:,.1f} GiB"
        lines.append(f"{label}: a training step needs {need} of the {room}; use {advice}")
    too_long = [n for n, size in found.evaluation_memory.items() if size > machine.memory]
    if too_long:
        need = f"{found.evaluation_memory[too_long[0]] / 2**30:,.1f} GiB"
        lines.append(
            f"{label}: evaluation at {too_long[0]:,} needs {need} of the {room}; lengths from "
            "there on would end as out of memory"
        )
    return lines


def fitting(config: Config, text: Text, machine: Machine, meter: Meter) -> int | None:
    """The largest micro_batch_size with which a step fits; None if none does."""
    share = config.sequences_per_step // machine.n_devices
    for size in range(share, 0, -1):
        if share % size == 0:
            smaller = replace(config, optim=replace(config.optim, micro_batch_size=size))
            if memory(smaller, text.vocab_size, meter, machine.n_devices) <= machine.memory:
                return size
    return None


HEAD = ["run", "parameters", "updates", "tokens", "PFLOP", "memory, GiB", "disk, GiB"]
HEAD += ["evaluation: tokens", "PFLOP", "training: tokens/s", "hours", "evaluation: hours"]


def plan_lines(
    labels: Sequence[str],
    configs: Sequence[PlanConfig],
    texts: Sequence[Text],
    meter: Meter,
    planned_for: Sequence[Machine],
) -> tuple[list[list[str]], list[str]]:
    """A line of cells under HEAD for each run and one for their sum; and warnings."""
    body, notes, costs, hours = [], [], [], []
    n_devices = configs[0].plan.devices
    for number, (label, config, text) in enumerate(zip(labels, configs, texts, strict=True)):
        found = cost(config, text, meter, n_devices)
        costs.append(found)
        line = [label, f"{found.parameters:,}", f"{config.optim.steps:,}"]
        line += [f"{found.train_tokens:,}", _amount(found.train_flops / 1e15)]
        line += [_amount(found.memory / 2**30), _amount(found.disk / 2**30)]
        if found.evaluation_tokens is None or found.evaluation_flops is None:
            line += [UNKNOWN, UNKNOWN]
        else:
            line += [f"{found.evaluation_tokens:,}", _amount(found.evaluation_flops / 1e15)]
        if planned_for:
            machine = planned_for[number]
            # Blocks that are recomputed in the backward pass take one forward pass more.
            again = 4 / 3 if config.checkpointing and not machine.measured else 1.0
            training = again * found.train_flops / machine.training / 3600
            evaluation = (found.evaluation_flops or 0) / machine.evaluation / 3600
            hours.append(training + evaluation)
            line += [f"{found.train_tokens / training / 3600:,.0f}", _amount(training)]
            line += [_amount(evaluation) if found.evaluation_flops is not None else UNKNOWN]
            notes += warnings(label, config, text, found, machine, meter)
        else:
            line += ["", "", ""]
        body.append(line)
    total = [f"sum of {len(body)}", "", "", f"{sum(c.train_tokens for c in costs):,}"]
    total += [_amount(sum(c.train_flops for c in costs) / 1e15), ""]
    total += [_amount(sum(c.disk for c in costs) / 2**30)]
    known = [c for c in costs if c.evaluation_flops is not None]
    total += [f"{sum(c.evaluation_tokens or 0 for c in known):,}" if known else UNKNOWN]
    total += [_amount(sum(c.evaluation_flops or 0 for c in known) / 1e15) if known else UNKNOWN]
    total += ["", f"{_amount(sum(hours))} in all" if hours else "", ""]
    return [*body, total], notes


def _amount(value: float) -> str:
    """To three digits, large ones whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
