"""Everything that works on a run folder."""
