"""transformers and the Hugging Face hub: loaded where needed, quiet, each error one line."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

from alibi_lm.errors import UserError

INSTALL = "pip install -r requirements-huggingface.txt"
OPTIONAL = ("gguf", "accelerate")  # what that installs beside transformers


@contextlib.contextmanager
def transformers_quietly() -> Iterator[None]:
    """Without its warnings and bars; a UserError if it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"this needs transformers: {INSTALL}") from error
    level = transformers.logging.get_verbosity()
    of_hub = logging.getLogger("huggingface_hub")
    level_of_hub = of_hub.level
    of_hub.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        of_hub.setLevel(level_of_hub)
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()


@contextlib.contextmanager
def explaining(name: str) -> Iterator[None]:
    """Whatever transformers and the hub raise becomes one line; nothing else is printed."""
    try:
        with transformers_quietly():
            yield
    except UserError:
        raise
    except Exception as error:  # whatever unknown files and a network make the libraries raise
        raise UserError(f"model: {name} {_reason(error)[:400]}") from error


def _reason(error: Exception) -> str:
    """What is wrong with a model, in a user's words."""
    import huggingface_hub.errors as hub
    from safetensors import SafetensorError

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)

    def is_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    text = " ".join(str(error).split())
    if is_of(hub.GatedRepoError):
        return "is gated: accept its terms on its page and log in with `hf auth login`"
    if is_of(hub.RevisionNotFoundError):
        return "has no such revision"
    if is_of(hub.RepositoryNotFoundError):
        return "is no folder, and on the Hugging Face hub it does not exist or is private"
    if is_of(hub.HFValidationError):
        return "is neither a folder nor the name of a model, OWNER/NAME"
    if is_of(hub.LocalEntryNotFoundError, ConnectionError):
        return "is no folder, and the Hugging Face hub cannot be reached"
    if isinstance(error, ImportError):
        ours = any(name in text.lower() for name in OPTIONAL)
        return f"needs more than is installed: {text}{f'; {INSTALL}' if ours else ''}"
    if "trust_remote_code" in text:
        return "comes with code of its own; to run it: trust_remote_code=true"
    if is_of(SafetensorError, FileNotFoundError) or "no file named" in text:
        return f"is not whole: {text}"
    return f"cannot be read: {type(error).__name__}: {text}"
