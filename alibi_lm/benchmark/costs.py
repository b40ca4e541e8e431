"""What a run costs before it is run: parameters, tokens, operations, memory, disk, time.

Nothing is trained and no text is read but its counts. Memory is counted from the tensors that a
training step holds: weights, gradients, what the optimizer keeps, and what each layer keeps for the
backward pass, as the autograd formulas of its operations say. On a CPU it is within 15 % of what
is measured; on a GPU it was not measured.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alibi_lm.attention import choose
from alibi_lm.benchmark.hardware import DATA_SHEETS
from alibi_lm.config import Config
from alibi_lm.data.dictionary import count_words, in_fairseq_layout, read_dictionary
from alibi_lm.data.tokenizers import BpeConfig, WordsConfig
from alibi_lm.data.tokens import find_prepared
from alibi_lm.data.wikitext import ORIGINAL, ORIGINAL_TYPES, WikitextConfig
from alibi_lm.errors import UserError
from alibi_lm.machine.device import resolve_device
from alibi_lm.machine.memory import available_memory, keep_freed_memory
from alibi_lm.markdown import Table
from alibi_lm.model.adaptive import zipf_shares
from alibi_lm.model.decoder import Decoder
from alibi_lm.model.softmax import LOGITS_AT_ONCE, TiedSoftmax
from alibi_lm.positions import Position
from alibi_lm.runs.evaluate import protocols
from alibi_lm.training.loop import update
from alibi_lm.training.optim import build_optimizer

FLOAT = 4  # bytes
UNKNOWN = "?"  # until the text is tokenized
MEASURED = 2048  # tokens of a pass that is timed, at least one sequence
ROUNDS = 3


@dataclass(frozen=True)
class Text:
    """What is known of a run's text before it is read."""

    vocab_size: int
    targets: int | None  # tokens of the split that is evaluated; None: not yet tokenized


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


def cost(config: Config, text: Text, device: str = "cpu", n_devices: int = 1) -> Cost:
    """What the run of these settings costs on so many devices (`cpu` or `cuda`)."""
    model = _shapes(config, text)
    tokens = config.optim.steps * config.optim.tokens_per_step
    read, flops = None, None
    if text.targets is not None:
        wanted = protocols(config.evaluation, config.train_length)
        reads = [protocol.reads(text.targets) for protocol in wanted]
        forward = [model.training_flops_per_token(protocol.length) / 3 for protocol in wanted]
        read, flops = sum(reads), sum(a * b for a, b in zip(reads, forward, strict=True))
    kept = FLOAT * model.n_parameters * (1 + _slots(config))
    losses = FLOAT * (text.targets or 0) * len(protocols(config.evaluation, config.train_length))
    return Cost(
        parameters=model.n_parameters,
        train_tokens=tokens,
        train_flops=tokens * model.training_flops_per_token(config.train_length),
        evaluation_tokens=read,
        evaluation_flops=flops,
        memory=memory(config, model, device, n_devices),
        evaluation_memory={
            length: _evaluation_memory(config, model, length)
            for length in config.evaluation.lengths_of(config.train_length)
        },
        # Two checkpoints and the one that is being written; the weights.
        disk=3 * kept + FLOAT * model.n_parameters + losses,
    )


def _shapes(config: Config, text: Text) -> Decoder:
    """The model without its numbers; a UserError if its cutoffs do not fit the vocabulary."""
    with torch.device("meta"):
        return Decoder(config.model, config.position, text.vocab_size)


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
        f"the vocabulary of tokenizer={tokenizer.name} is not known before the text is read: run "
        "scripts/prepare.py with the same settings first, or set tokenizer.vocab_size"
    )


def memory(config: Config, model: Decoder, device: str = "cpu", n_devices: int = 1) -> int:
    """The most bytes that each device holds at once in a training step; each has the model."""
    sizes, passes = config.model, config.grad_accum_steps(n_devices)
    n = config.optim.tokens_per_step // n_devices // passes  # tokens of a pass
    wide = FLOAT if config.dtype == "float32" else 2  # bytes of what matrix products give
    parameters = FLOAT * model.n_parameters
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    rounded = 0 if wide == FLOAT else wide * matrices  # what autocast casts once for a pass
    embedding = FLOAT * sum(p.numel() for p in model.embedding.parameters())

    per_layer = n * _layer_bytes(config, model, device, wide)
    between = FLOAT * n * sizes.d_model
    layers = (between if config.checkpointing else per_layer) * sizes.n_layers
    one_more = per_layer if config.checkpointing else 0  # the layer that is computed again
    kept = layers + between * (2 if sizes.dropout else 1)
    output, output_peak = _output_bytes(config, model, n, wide)
    gradients = parameters if passes > 1 else 0

    # The peak is where the loss is differentiated, where the last layer is, or at the update.
    at_loss = kept + output_peak + gradients
    at_layer = kept + output + max(gradients, embedding) + one_more + _backward_bytes(config, n)
    at_update = parameters * (2 if _slots(config) == 1 and device == "cuda" else 1)
    held = parameters * (1 + _slots(config))
    if n_devices > 1 and config.parallel == "fsdp":
        shards = (held + at_update) / n_devices  # of weights, gradients and optimizer state
        return int(shards + rounded + max(at_loss, at_layer) + parameters / sizes.n_layers)
    buckets = parameters if n_devices > 1 else 0  # in which DDP sends gradients
    return int(held + rounded + buckets + max(at_loss, at_layer, at_update))


def _evaluation_memory(config: Config, model: Decoder, length: int) -> int:
    """The most bytes that evaluation holds at once at a length: one block's tensors, and logits."""
    n = max(length, config.evaluation.batch_tokens // length * length)
    width, inner = config.model.d_model, config.model.d_ff
    logits = 2 * FLOAT * LOGITS_AT_ONCE["evaluation"]
    return FLOAT * (model.n_parameters + n * (2 * width + max(5 * width, 2 * inner))) + logits


def _slots(config: Config) -> int:
    """Numbers that the optimizer keeps for each parameter."""
    return {"adamw": 2, "nag": 1}[config.optim.name]


def _layer_bytes(config: Config, model: Decoder, device: str, wide: int) -> float:
    """What a block keeps of each token for its backward pass."""
    sizes = config.model
    width, inner = sizes.d_model, sizes.d_ff
    backend = config.backend
    if backend == "auto":
        bias = model.position.bias(config.train_length)
        backend = choose(bias, device, training=True, dropout=sizes.attention_dropout)
    count = 2 * FLOAT * width  # the stream before each norm
    count += 2 * wide * width  # each norm's output, as the products read it
    count += 4 * wide * width  # q, k, v and the heads' output
    if type(model.position).rotate is not Position.rotate:
        count += 2 * wide * width  # turned q and k beside those of the product
    if backend == "coordinates":
        count += wide * (width + 4 * 8 * sizes.n_heads)  # wider ones instead, the output twice
    count += wide * inner  # after the ReLU
    mask = wide if device == "cpu" else 1  # of a dropout: the factors, or which ones are zero
    if sizes.dropout:
        count += 2 * mask * width
    if sizes.activation_dropout:
        count += (mask + wide) * inner
    return count


def _backward_bytes(config: Config, n: int) -> float:
    """What the backward pass of one block holds for a while."""
    return FLOAT * n * max(2 * config.model.d_ff, 8 * config.model.d_model)


def _output_bytes(config: Config, model: Decoder, n: int, wide: int) -> tuple[float, float]:
    """What the output layer keeps of a pass, and the most that it holds at once."""
    width, extra = config.model.d_model, 0.0
    if isinstance(model.embedding, TiedSoftmax):
        rows = [(n, len(model.embedding.weight))]
    else:
        edges = model.embedding.edges
        shares = zipf_shares(edges)
        head = edges[0][1] + len(edges) - 1
        rows = [(n, head)] + [
            (int(n * share), stop - start)
            for share, (start, stop) in zip(shares[1:], edges[1:], strict=True)
        ]
        extra = FLOAT * (n * width + head * width)
    most = LOGITS_AT_ONCE["training"]
    # Where they fit at once, the log-probabilities are kept, and their gradient and that of the
    # logits come on top; a chunk's are computed again, beside its logits.
    kept = FLOAT * sum(size for size in map(math.prod, rows) if size <= most)
    narrow = wide if wide < FLOAT else 0
    peaks = [
        (2 * FLOAT + narrow) * size if size <= most else (4 * FLOAT + narrow) * most
        for size in map(math.prod, rows)
    ]
    return extra, extra + kept + max(peaks)


@dataclass(frozen=True)
class Machine:
    """What runs are planned for: so many devices, each so fast and so large."""

    name: str
    device: str  # cpu or cuda
    n_devices: int
    memory: float  # bytes of each
    training: float  # operations per second of all devices, as reached
    evaluation: float
    measured: bool = False  # on the very runs, with all that they do


def named_machine(name: str, n_devices: int, efficiency: float, config: Config) -> Machine:
    """Devices of a data sheet that reach a part of what it promises for the run's dtypes."""
    sheet, dtype = DATA_SHEETS[name], config.evaluation.dtype or config.dtype
    what = f"{n_devices} x {name} at {efficiency:.0%} of the data sheet ({config.dtype}"
    what += ")" if dtype == config.dtype else f", evaluation {dtype})"
    reached = n_devices * efficiency
    training, evaluation = reached * sheet.flops(config.dtype), reached * sheet.flops(dtype)
    return Machine(what, "cuda", n_devices, sheet.memory, training, evaluation)


def known_speed(config: Config, text: Text, tokens_per_second: float, n_devices: int) -> Machine:
    """A machine that is known to train this run so fast."""
    flops = _shapes(config, text).training_flops_per_token(config.train_length)
    what = f"a machine that trains {config.position.name} at {config.train_length} with "
    what += f"{tokens_per_second:,.0f} tokens/s"
    rate = flops * tokens_per_second
    return Machine(what, "cuda", n_devices, math.inf, rate, rate, measured=True)


def this_machine(config: Config, text: Text) -> Machine:
    """The machine here, as fast as it is in a few updates of MEASURED random tokens of the run."""
    device = resolve_device(config.device)
    keep_freed_memory()
    room, how = available_memory(device), (config.seed, config.backend, config.checkpointing)
    model = Decoder(config.model, config.position, text.vocab_size, *how).to(device)
    length, vocab_size = config.train_length, text.vocab_size
    n = max(1, min(config.optim.tokens_per_step // config.grad_accum_steps(), MEASURED) // length)
    optim = replace(config.optim, tokens_per_step=n * length, micro_batch_size=None)
    short, optimizer = replace(config, optim=optim), build_optimizer(model, optim)
    # Words by Zipf's law, as the operations are counted: rare ones cost an adaptive softmax more.
    ranks = torch.rand(n, length + 1, generator=torch.Generator().manual_seed(0)) * math.log(
        vocab_size
    )
    tokens = (ranks.exp().long() - 1).clamp(0, vocab_size - 1).to(device)
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        update(model, optimizer, tokens[:, :-1], tokens[:, 1:], short, device)
        seconds.append(time.perf_counter() - started)
    flops = n * length * model.training_flops_per_token(length) / statistics.median(seconds[1:])
    name = "this machine" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Machine(name, device.type, 1, room, flops, flops, measured=True)


def warnings(label: str, config: Config, text: Text, found: Cost, machine: Machine) -> list[str]:
    """A line for each thing that the machine has not the memory for, with what would do."""
    lines = []
    room = f"{machine.memory / 2**30:,.1f} GiB of {machine.name}"
    if found.memory > machine.memory:
        line = f"{label}: a training step needs {found.memory / 2**30:,.1f} GiB of the {room}"
        fits = fitting(config, text, machine)
        advice = (
            "checkpointing=true or a smaller model"
            if fits is None
            else (f"optim.micro_batch_size={fits}")
        )
        lines.append(f"{line}; {advice} would do")
    too_long = [n for n, size in found.evaluation_memory.items() if size > machine.memory]
    if too_long:
        need = found.evaluation_memory[too_long[0]] / 2**30
        lines.append(
            f"{label}: evaluation at {too_long[0]:,} needs {need:,.1f} GiB of the {room}; lengths "
            "from there on would end as out of memory"
        )
    return lines


def fitting(config: Config, text: Text, machine: Machine) -> int | None:
    """The largest micro_batch_size with which a step fits; None if none does."""
    share = config.sequences_per_step // machine.n_devices
    model = _shapes(config, text)
    for size in range(share, 0, -1):
        smaller = replace(config, optim=replace(config.optim, micro_batch_size=size))
        if share % size == 0 and (
            memory(smaller, model, machine.device, machine.n_devices) <= machine.memory
        ):
            return size
    return None


def table(
    labels: Sequence[str],
    configs: Sequence[Config],
    texts: Sequence[Text],
    machines: Sequence[Machine | None],
    n_devices: int = 1,
) -> tuple[Table, list[str]]:
    """A line for each run and one for their sum, and warnings.

    n_devices: GPUs that share a run, where no machine says it.
    """
    head = ["run", "parameters", "updates", "tokens", "PFLOP", "memory, GiB", "disk, GiB"]
    head += ["evaluation: tokens", "PFLOP", "training: tokens/s", "hours", "evaluation: hours"]
    body, notes, costs, hours = [], [], [], []
    for label, config, text, machine in zip(labels, configs, texts, machines, strict=True):
        here = "cuda" if n_devices > 1 else resolve_device(config.device).type
        where = (machine.device, machine.n_devices) if machine else (here, n_devices)
        found = cost(config, text, *where)
        costs.append(found)
        line = [label, f"{found.parameters:,}", f"{config.optim.steps:,}"]
        line += [f"{found.train_tokens:,}", _amount(found.train_flops / 1e15)]
        line += [_amount(found.memory / 2**30), _amount(found.disk / 2**30)]
        if found.evaluation_tokens is None or found.evaluation_flops is None:
            line += [UNKNOWN, UNKNOWN]
        else:
            line += [f"{found.evaluation_tokens:,}", _amount(found.evaluation_flops / 1e15)]
        if machine:
            # A block whose inputs alone were kept is computed once more.
            again = 4 / 3 if config.checkpointing and not machine.measured else 1.0
            training = again * found.train_flops / machine.training / 3600
            evaluation = (found.evaluation_flops or 0) / machine.evaluation / 3600
            hours.append(training + evaluation)
            line += [f"{found.train_tokens / training / 3600:,.0f}", _amount(training)]
            line += [_amount(evaluation) if found.evaluation_flops is not None else UNKNOWN]
            notes += warnings(label, config, text, found, machine)
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
    return Table(head, [*body, total], texts=1), notes


def _amount(value: float) -> str:
    """To three digits, large ones whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
