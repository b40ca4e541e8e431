"""Tokenize a corpus ahead of time and print what it holds.

  python scripts/prepare.py
  python scripts/prepare.py data=wikitext103 tokenizer=words
  python scripts/prepare.py data=text 'data.train=[a.txt,b/*.txt]' data.held_out=0.1 tokenizer=bytes

Runs do this by themselves; doing it first helps where many runs start at once or compute nodes
have no network. Token files lie in CACHE, keyed by a hash of text and tokenizer.
"""

from pathlib import Path

from alibi_lm.cli import command
from alibi_lm.config import Config
from alibi_lm.data.tokens import prepare
from alibi_lm.machine.progress import say


def show(config: Config) -> None:
    """Prepare, then print one line for each split."""
    data = prepare(config.data, config.tokenizer, Path(config.cache))
    say(f"{data.name}: {data.vocab_size:,} {data.tokenizer} tokens, text {data.hash[:12]}")
    for name, split in data.splits.items():
        say(
            f"{name:>12}: {split.tokens:>13,} tokens {split.words:>13,} words {split.bytes:>13,} "
            f"bytes ({split.bytes / split.tokens:.2f} bytes per token)"
        )
        if split.lost:
            say(
                f"{name:>12}: the tokens do not give back the lines of {split.lost:.2%} of the "
                "bytes, so rows will have no word_ppl and bpb"
            )


if __name__ == "__main__":
    command(__doc__, Config, show)
