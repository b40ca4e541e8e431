"""How fast schemes train and evaluate, and in how much memory, against each other and others' code.

Everything that is compared takes turns in one process, so that a machine whose speed drifts is as
fast for the one as for the other: first all at one length, then all at the next.
"""

from alibi_lm.benchmark.measure import benchmark

__all__ = ["benchmark"]
