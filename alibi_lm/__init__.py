"""Train short, test long: language models that differ only in how they know positions."""
