"""The corpora by name."""

from collections.abc import Callable

from alibi_lm.data.corpus import Corpus, DataConfig
from alibi_lm.data.stdlib import load_stdlib
from alibi_lm.data.text import TextConfig, load_text
from alibi_lm.data.wikitext import WikitextConfig, load_wikitext

SOURCES: dict[str, tuple[type[DataConfig], Callable[[DataConfig], Corpus]]] = {
    "stdlib": (DataConfig, load_stdlib),
    "text": (TextConfig, load_text),
    "wikitext": (WikitextConfig, load_wikitext),
}


def load_corpus(config: DataConfig) -> Corpus:
    """The corpus that the configuration names."""
    return SOURCES[config.source][1](config)
