"""From a corpus to batches: corpus -> tokenizer -> token file -> training batches, windows."""
