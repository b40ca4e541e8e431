"""A causal language model of transformers, as a subject that the protocols measure.

It is called without cache and without padding. The hidden states of a batch are computed once. What
the class does after them (a matrix, a scale, a cap), it does itself, on a piece of them at a time,
so the logits are never held whole. That this gives the class's own logits is checked at load.
"""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alibi_lm.errors import UserError
from alibi_lm.machine.hub import explaining
from alibi_lm.machine.progress import bar, say
from alibi_lm.model.rotations import Rotations
from alibi_lm.model.softmax import LOGITS_AT_ONCE, losses_where_scored
from alibi_lm.positions import Sizes
from alibi_lm.settings import setting

PROBE = 32  # tokens that are read to check a model at load
TOLERANCE = {True: 1e-5, False: 2e-2}  # of the largest logit, in float32 and in 16 bits
# What tells tables of positions from other embeddings.
POSITIONAL = ("pos", "wpe")
# Files that decide what a folder's model computes, beside its configuration.
HASHED = (".safetensors", ".bin", ".gguf", ".py")
CHUNK = 2**24  # bytes that are hashed at once


@dataclass
class HuggingfaceConfig:
    """A causal language model of transformers, and what convert.py found out about it."""

    name: str = setting("", "owner/name on the Hugging Face hub, or a folder")
    revision: str | None = setting(None, "commit on the hub")
    gguf: str | None = setting(None, "GGUF file that holds the weights")
    trust_remote_code: bool = setting(False, "run the code that comes with the model")
    label: str = setting("", "what rows call it")
    bos_token: str | None = setting(None, "its beginning-of-text token")
    n_layers: int = setting(1, "layers", at_least=1)
    n_heads: int = setting(1, "attention heads", at_least=1)
    head_dim: int = setting(1, "width of a head", at_least=1)
    rescalable: bool = setting(False, "whether it rotates as rope_parameters of ours say")

    def sizes(self, train_length: int) -> Sizes:
        """What a positional scheme knows of the model."""
        return Sizes(self.n_layers, self.n_heads, self.n_heads * self.head_dim, train_length)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return Path(self.name).is_dir()

    def source(self) -> dict[str, Any]:
        """Where transformers finds it, as its from_pretrained wants it."""
        where: dict[str, Any] = {
            "pretrained_model_name_or_path": self.name,
            "trust_remote_code": self.trust_remote_code,
        }
        if self.is_local:
            where["local_files_only"] = True
        elif self.revision:
            where["revision"] = self.revision
        return where | ({"gguf_file": self.gguf} if self.gguf else {})


class HuggingfaceModel:
    """The model in one dtype on one device; its `rotations` say how positions are read.

    longest_read: of the texts that it will be given; some classes build tables for it.
    """

    casts = False  # its weights are in the dtype of the measurement

    def __init__(
        self,
        settings: HuggingfaceConfig,
        dtype: str = "float32",
        device: torch.device | None = None,
        longest_read: int = 0,
    ) -> None:
        self.name = settings.name
        self.model = _load(settings, dtype, longest_read)
        self.n_parameters = sum(p.numel() for p in self.model.parameters())
        self.vocab_size = int(self.model.config.get_text_config().vocab_size)
        self.backend = str(getattr(self.model.config, "_attn_implementation", None) or "own")
        self.rotations = Rotations(self.model, settings.name)
        self._kept: Any = None
        with explaining(settings.name), torch.inference_mode():
            self._inner = self._find_inner()
            self._check_causal()
            self.longest = self._find_longest()
        if not self.in_pieces:
            say(f"{self.name}: its logits can only be computed whole, which takes memory")
        self._takes_window: bool | None = None  # not yet tried
        self.model.to(device)

    @property
    def in_pieces(self) -> bool:
        """Whether its logits need not be held whole."""
        return self._inner is not None

    @property
    def rounds_biases(self) -> bool:
        """Whether it makes ALiBi's biases in bfloat16 whatever its dtype."""
        return str(self.model.config.model_type) == "falcon"

    def check_tokens(self, largest: int) -> None:
        """Refuse a text with a token that the model does not know; tokens are numbered from 0."""
        if largest >= self.vocab_size:
            raise UserError(
                f"model: {self.name} knows {self.vocab_size:,} tokens, and its tokenizer makes "
                f"number {largest:,} of this text"
            )

    @property
    def prefix_consistent(self) -> bool:
        """Whether no rotation depends on the length of the text."""
        return not self.rotations.depend_on_length

    def refusal(self, length: int, window: int | None) -> str | None:
        """Why it cannot read texts of that length within that window; None if it can."""
        if self.longest is not None and length > self.longest:
            return f"it has {self.longest} positions"
        if window is None:
            return None
        config = self.model.config.get_text_config()
        if own := getattr(config, "attention_chunk_size", None):
            return f"layers attend in chunks of {own}"
        if (own := getattr(config, "sliding_window", None)) and window > own:
            return f"layers have a window of their own, of {own}"
        if not self._window_works():
            return f"{type(self.model).__name__} takes no window"
        return None

    def __call__(self, inputs: Tensor, targets: Tensor, window: int | None = None) -> Tensor:
        """Losses in nats; a target UNSCORED has none. (B, T), (B, T) -> (B, T)."""
        if self.in_pieces:
            hidden = self._hidden(inputs, window)
            return losses_where_scored(hidden, targets, self._losses_of_hidden)
        logits = self._logits(inputs, window)
        return losses_where_scored(
            logits, targets, lambda x, y: F.cross_entropy(x.float(), y, reduction="none")
        )

    def _call(self, tokens: Tensor, window: int | None = None, **wanted: Any) -> Any:
        """The class's own forward pass, which keeps nothing from the one before."""
        self.rotations.put()
        mask = {} if window is None else {"attention_mask": self._mask(tokens.shape[1], window)}
        return self.model(tokens, use_cache=False, **mask, **wanted)

    def _logits(self, tokens: Tensor, window: int | None = None) -> Tensor:
        """(B, T) -> (B, T, V)."""
        logits: Tensor = self._call(tokens, window).logits
        return logits

    def _hidden(self, tokens: Tensor, window: int | None = None) -> Tensor:
        """What the class's head is given. (B, T) -> (B, T, D)."""
        self._call(tokens, window, logits_to_keep=1)
        kept = self._kept
        hidden: Tensor = kept[0] if isinstance(kept, tuple) else kept.last_hidden_state
        return hidden

    def _head(self, hidden: Tensor) -> Tensor:
        """The class's own logits of hidden states. (N, D) -> (N, V)."""
        assert self._inner is not None
        piece = hidden[None]
        if isinstance(self._kept, tuple):
            given: Any = (piece, *self._kept[1:])
        else:
            given = copy.copy(self._kept)
            given.last_hidden_state = piece
        self._inner.forward = lambda *args, **kwargs: given
        kept = self._kept
        try:
            # Of the tokens only their number counts: no hidden state is computed from them.
            tokens = torch.zeros(piece.shape[:2], dtype=torch.int64, device=piece.device)
            logits: Tensor = self.model(tokens, use_cache=False).logits[0]
        finally:
            del self._inner.forward
            self._kept = kept
        return logits

    def _losses_of_hidden(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(N, D), (N,) -> (N,)."""
        found = torch.empty(len(targets), device=hidden.device)
        at_once = max(1, LOGITS_AT_ONCE["evaluation"] // self.vocab_size)
        for start in range(0, len(targets), at_once):
            part = slice(start, start + at_once)
            logits = self._head(hidden[part]).float()
            found[part] = F.cross_entropy(logits, targets[part], reduction="none")
        return found

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._kept = output

    def _find_inner(self) -> nn.Module | None:
        """The part that gives hidden states, if logits in pieces of them are the class's own."""
        named = [getattr(self.model, "get_decoder", lambda: None)(), self.model.base_model]
        parts: list[nn.Module] = [part for part in named if part not in (None, self.model)]
        parts += self.model.children()
        for inner in dict.fromkeys(parts):
            hook = inner.register_forward_hook(self._keep)
            self._inner, self._kept = inner, None
            if self._pieces_are_exact():
                return inner
            hook.remove()
        return None

    def _probe(self, tokens: int = PROBE) -> Tensor:
        """Some tokens. (1, T)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.vocab_size, (1, tokens), generator=generator)

    def _pieces_are_exact(self) -> bool:
        tokens = self._probe()
        try:
            if self._call(tokens, logits_to_keep=1).logits.shape[1] != 1:
                return False  # it computes all of them whatever is asked for
            whole, hidden = self._logits(tokens)[0], self._hidden(tokens)[0]
            pieces = torch.cat([self._head(hidden[:5]), self._head(hidden[5:])])
        except (TypeError, AttributeError, RuntimeError, KeyError):
            return False
        return _agree(whole, pieces)

    def _check_causal(self) -> None:
        """Refuse models that see what they are to predict, as encoders do."""
        tokens = self._probe()
        other = tokens.clone()
        other[0, -1] = (other[0, -1] + 1) % self.vocab_size
        if not _agree(self._logits(tokens)[0, :-1], self._logits(other)[0, :-1]):
            raise UserError(
                f"model: {self.name} is no causal language model: {type(self.model).__name__} "
                "sees the tokens that it is to predict"
            )

    def _find_longest(self) -> int | None:
        """The length of its table of positions, if it has one that ends; it is tried."""
        embeddings = self.model.get_input_embeddings()
        rows = {
            module.num_embeddings - int(getattr(module, "offset", 0))
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Embedding)
            and module is not embeddings
            and any(word in name.lower() for word in POSITIONAL)
        }
        config = self.model.config.get_text_config()
        for key in ("max_position_embeddings", "n_positions"):
            length = int(getattr(config, key, None) or 0)
            if any(length in b.shape for n, b in self.model.named_buffers() if "inv_freq" not in n):
                rows.add(length)
        # As on a GPU reading beyond a table ends the process, that is tried here, on the CPU.
        for length in sorted(rows):
            try:
                self._call(
                    self._probe(length + 1), **({"logits_to_keep": 1} if self.in_pieces else {})
                )
            except (IndexError, RuntimeError, ValueError):
                return length
        return None

    def _window_works(self) -> bool:
        """Whether the class heeds a mask of ours: with a window of 1 no earlier token matters."""
        if self._takes_window is None:
            device = next(self.model.parameters()).device
            tokens = self._probe(8).to(device)
            other = tokens.clone()
            other[0, 0] = (other[0, 0] + 1) % self.vocab_size
            try:
                with torch.inference_mode():
                    alone, again = (self._logits(x, window=1)[0, 1:] for x in (tokens, other))
                    whole, full = self._logits(tokens)[0], self._logits(tokens, window=8)[0]
                self._takes_window = _agree(alone, again) and _agree(whole, full)
            except (TypeError, AttributeError, RuntimeError, ValueError, IndexError):
                self._takes_window = False
        return self._takes_window

    def _mask(self, length: int, window: int) -> Tensor:
        """What each query sees, as the class's kind of attention wants it. (1, 1, T, T)."""
        weights = next(self.model.parameters())
        seen = torch.ones(1, 1, length, length, dtype=torch.bool, device=weights.device)
        seen = seen.tril_().triu_(1 - window)
        if self.backend != "eager":
            return seen
        lowest = torch.finfo(weights.dtype).min
        return torch.zeros_like(seen, dtype=weights.dtype).masked_fill(~seen, lowest)


def hash_of(settings: HuggingfaceConfig) -> str:
    """A hash of the weights: of the files of a folder, or of the commit on the hub."""
    digest = hashlib.sha256()
    if not settings.is_local:
        digest.update(f"{settings.name} {settings.revision} {settings.gguf}".encode())
        return digest.hexdigest()
    folder = Path(settings.name)
    there = [folder / settings.gguf] if settings.gguf else sorted(folder.glob("*"))
    files = [file for file in there if file.suffix in HASHED or file.name == "config.json"]
    size = sum(file.stat().st_size for file in files)
    with bar(total=size, desc=f"hash {settings.label}", unit="B") as progress:
        for file in files:
            digest.update(file.name.encode())
            of_file = hashlib.sha256()
            with file.open("rb") as content:
                while chunk := content.read(CHUNK):
                    of_file.update(chunk)
                    progress.update(len(chunk))
            digest.update(of_file.digest())
    return digest.hexdigest()


def _load(settings: HuggingfaceConfig, dtype: str, longest_read: int) -> Any:
    """The model of transformers, in evaluation; a UserError if it is not all there."""
    with explaining(settings.name):
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(**settings.source())
        if hasattr(config, "max_seq_len"):  # MPT builds its bias for that length
            config.max_seq_len = max(config.max_seq_len, longest_read)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **settings.source(),
            config=config,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
        )
        model, found = loaded
    lacking = sorted(found["missing_keys"]) + [key for key, *_ in found["mismatched_keys"]]
    if lacking:
        raise UserError(
            f"model: {settings.name} does not hold all weights of {type(model).__name__}: "
            f"{', '.join(lacking[:3])}{f' and {len(lacking) - 3} more' * (len(lacking) > 3)}"
        )
    return model.eval()


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether logits are the same but for the order of sums; infinite ones in the same places."""
    tolerance = TOLERANCE[one.dtype == torch.float32]
    one, other = one.float(), other.float()
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()):
        return False
    largest = one[finite].abs().max() if finite.any() else torch.zeros(())
    differences = (one - other)[finite].abs()
    return bool((differences <= tolerance * largest.clamp(min=1)).all())
