"""Causal language models of Hugging Face as run folders; the weights stay where they are."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers

from alibi_lm.config import PretrainedConfig
from alibi_lm.data.sources.stdlib import StdlibConfig
from alibi_lm.data.tokenizers import END_NAMES, FileConfig
from alibi_lm.data.tokens import prepare
from alibi_lm.errors import SettingsError, UserError
from alibi_lm.evaluation.protocols import EvaluationConfig
from alibi_lm.interop.config import ConvertConfig
from alibi_lm.machine.hub import explaining
from alibi_lm.machine.progress import say
from alibi_lm.model.huggingface import HuggingfaceConfig, HuggingfaceModel, hash_of
from alibi_lm.positions import PositionConfig
from alibi_lm.positions.rope_parameters import read_rope_parameters
from alibi_lm.positions.spec import read_spec
from alibi_lm.runs.folder import Run, new_run

# Where a config.json says how long the texts of training were.
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
# Schemes of classes whose settings do not say them; None: rotations as none of ours.
OF_TYPE = {"ctrl": "sinusoidal", "gptj": None, "codegen": None, "roformer": None}


def convert(wanted: ConvertConfig) -> Run:
    """Make the run folder of a model, for the text that is given; the run is trained.

    A UserError if the model cannot be read, is no causal language model, or has no tokenizer; then
    there is no folder.
    """
    assert wanted.model is not None
    name = wanted.model
    if Path(name).is_dir():  # so that it is found from any folder
        name = str(Path(name).resolve())
        if wanted.revision is not None:
            raise SettingsError([f"revision: given {wanted.revision}, but {name} is a folder"])
    pretrained = HuggingfaceConfig(
        name, wanted.revision, wanted.gguf, wanted.trust_remote_code, label=_label(wanted, name)
    )
    pretrained, theirs = look_up(pretrained)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, pretrained, adds_bos = _tokenizer(pretrained, wanted.end, Path(folder))
        bos = wanted.bos or ("window" if adds_bos else "start")
        if pretrained.bos_token is None and bos != "none":
            if wanted.bos is not None:
                raise SettingsError([f"bos: given {bos}, but {wanted.model} has no such token"])
            bos = "none"
        # The model is read before the text: it is refused sooner.
        model = HuggingfaceModel(pretrained, wanted.dtype)
        length = wanted.train_length or model.longest or _train_length(theirs, wanted.model)
        position = wanted.position or find_position(theirs, model, length, pretrained)
        if position is None:
            position = read_spec("rotary", "position")
            say(
                f"{wanted.model}: it rotates as no setting of ours says, so its rows call it plain "
                "rotary, and it cannot be read otherwise"
            )
        elif position.kind == "rotary":
            sizes = pretrained.sizes(length)
            pretrained = replace(pretrained, rescalable=model.rotations.rotate_as(position, sizes))
        config = PretrainedConfig(
            position=position,
            data=wanted.data or StdlibConfig(),
            tokenizer=tokenizer,
            evaluation=EvaluationConfig(lengths=[length], bos=bos),
            train_length=length,
            dtype=wanted.dtype,
            output=wanted.output,
            cache=wanted.cache,
            run=wanted.run,
            pretrained=pretrained,
        )
        if problems := config.problems() or config.position.problems(config.sizes):
            raise SettingsError([f"model: {wanted.model}: {problem}" for problem in problems])
        tokens = prepare(config.data, config.tokenizer, Path(config.cache))
    model.check_tokens(tokens.largest)
    source = hash_of(pretrained)
    run = new_run(config, tokens, source)
    kept = replace(config, tokenizer=replace(tokenizer, path=str(run.tokenizer)))
    run = replace(run, config=kept)
    run.create()
    with run.lock():
        run.write_config()  # of a run that was there before: its identity is the same, not all else
        run.update_manifest(
            n_parameters=model.n_parameters,
            vocab_size=tokens.vocab_size,
            weights_of=pretrained.name,
            weights_sha256=source,
            class_name=type(model.model).__name__,
        )
    return run


def _label(wanted: ConvertConfig, name: str) -> str:
    """What rows call the model: the run's name if one is given, else that on the hub or disk."""
    if wanted.run is not None:
        return wanted.run
    if Path(name).is_dir():
        return Path(wanted.gguf or name).name.replace(" ", "_")
    return f"{name}@{wanted.revision}" if wanted.revision else name


def look_up(pretrained: HuggingfaceConfig) -> tuple[HuggingfaceConfig, Any]:
    """The model's configuration, and the settings with the commit and sizes that it has."""
    with explaining(pretrained.name):
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

        file = pretrained.gguf or "config.json"
        if not pretrained.is_local:
            pretrained = replace(pretrained, revision=_commit(pretrained, file))
        elif not Path(pretrained.name, file).is_file():
            raise UserError(f"model: {pretrained.name} holds no model: it has no {file}")
        theirs = AutoConfig.from_pretrained(**pretrained.source())
        of_its_own = "AutoModelForCausalLM" in (getattr(theirs, "auto_map", None) or {})
        if type(theirs) not in MODEL_FOR_CAUSAL_LM_MAPPING and not of_its_own:
            raise UserError(
                f"model: {pretrained.name} is no causal language model: its configuration is a "
                f"{type(theirs).__name__}"
            )
        text = theirs.get_text_config()
    n_heads = _size(text, "num_attention_heads") or 1
    width = _size(text, "hidden_size") or n_heads
    pretrained = replace(
        pretrained,
        n_layers=_size(text, "num_hidden_layers") or 1,
        n_heads=n_heads,
        head_dim=_size(text, "head_dim") or max(1, width // n_heads),
    )
    return pretrained, theirs


def _commit(pretrained: HuggingfaceConfig, file: str) -> str:
    """Of the revision on the hub, so that the model stays the one that was converted."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    found = cached_file(pretrained.name, file, revision=pretrained.revision)
    commit: str | None = extract_commit_hash(found, None)
    if commit is None:
        raise UserError(f"model: of {pretrained.name} no commit is known; give it: revision=COMMIT")
    return commit


def _size(text: Any, name: str) -> int | None:
    """A size in a configuration; None if it does not say it, or not one for all layers."""
    try:
        return getattr(text, name, None)
    except RuntimeError:  # layers differ in it
        return None


def _tokenizer(
    pretrained: HuggingfaceConfig, end: str | None, folder: Path
) -> tuple[FileConfig, HuggingfaceConfig, bool]:
    """The model's own tokenizer, its beginning-of-text token, and whether it adds that by itself.

    Its tokenizer.json as it is, if there is one; else what transformers makes of its other files.
    """
    with explaining(pretrained.name):
        from transformers import AutoTokenizer
        from transformers.utils.hub import cached_file

        try:
            theirs = AutoTokenizer.from_pretrained(**pretrained.source())
        except (OSError, ValueError, TypeError, AttributeError) as error:
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"model: {pretrained.name} has no tokenizer that can be read: {text}"
            ) from error
        file = None
        if not pretrained.gguf:
            where = pretrained.source()
            name = where.pop("pretrained_model_name_or_path")
            where.pop("trust_remote_code")
            file = cached_file(
                name, "tokenizer.json", **where, _raise_exceptions_for_missing_entries=False
            )
        if file is None:
            backend = getattr(theirs, "backend_tokenizer", None)
            if backend is None:
                raise UserError(f"model: {pretrained.name} has no tokenizer.json")
            file = str(folder / "tokenizer.json")
            backend.save(file)
        bos = theirs.bos_token
        first = theirs("x").input_ids[:1]
        adds = bos is not None and first == [theirs.bos_token_id]
        eos = theirs.eos_token
    known = tokenizers.Tokenizer.from_file(file)
    special = {
        token.content for token in known.get_added_tokens_decoder().values() if token.special
    }
    if end is None:  # that of a chat's turns is no end of a text
        usual = [name for name in END_NAMES if name in special]
        end = eos if eos in usual else next(iter(usual), eos)
    if end is None:
        raise UserError(f"model: {pretrained.name} has no end-of-text token; name it: end=TOKEN")
    if known.token_to_id(end) is None:
        raise SettingsError([f"end: given {end}, but {pretrained.name} has no such token"])
    if bos is not None and known.token_to_id(bos) is None:
        bos = None  # transformers adds it, its tokenizer.json does not know it
    return FileConfig(path=file, end=end), replace(pretrained, bos_token=bos), adds


def _train_length(theirs: Any, name: str) -> int:
    text = theirs.get_text_config()
    found = (getattr(text, key, None) for key in LENGTHS)
    length = next((n for n in found if isinstance(n, int)), None)
    if length is None:
        raise SettingsError(
            [f"train_length: not given, and the configuration of {name} does not say it"]
        )
    return length


def find_position(
    theirs: Any, model: HuggingfaceModel, train_length: int, pretrained: HuggingfaceConfig
) -> PositionConfig | None:
    """The scheme of a model of transformers as one of ours; None if it rotates as none of ours.

    Where layers rotate differently, that of those with full attention. A SettingsError if it comes
    with code of its own that does not say it.
    """
    from alibi_lm.interop.modeling import MODEL_TYPE

    text = theirs.get_text_config()
    sizes = pretrained.sizes(train_length)
    parameters = getattr(text, "rope_parameters", None)
    of_mpt = getattr(text, "attn_config", None)
    if text.model_type == MODEL_TYPE:
        return read_spec(theirs.position, "position")
    if text.model_type == "bloom" or any(getattr(c, "alibi", False) for c in (text, of_mpt)):
        # Falcon divides the sum of scores and biases by sqrt(head_dim).
        inside = text.model_type == "falcon"
        return read_spec({"kind": "alibi", "inside": inside}, "position")
    if parameters and model.rotations:
        by_kind = {k: v for k, v in parameters.items() if isinstance(v, dict)}
        of_all = by_kind.get("full_attention") or next(iter(by_kind.values()), parameters)
        max_length = getattr(text, "max_position_embeddings", train_length)
        found = read_rope_parameters(of_all, max_length, train_length)
        return None if found is None or found.problems(sizes) else found
    if text.model_type in OF_TYPE:
        known = OF_TYPE[text.model_type]
        return None if known is None else read_spec(known, "position")
    if any("Sinusoidal" in type(module).__name__ for module in model.model.modules()):
        return read_spec("sinusoidal", "position")
    if model.longest is not None:
        return read_spec("learned", "position")
    if not type(model.model).__module__.startswith("transformers."):
        raise SettingsError(
            [
                f"position: not given, and {type(model.model).__name__} of {pretrained.name} does "
                "not say its scheme; name it: position=NAME"
            ]
        )
    return read_spec("none", "position")
