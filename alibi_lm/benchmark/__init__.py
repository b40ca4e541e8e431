"""How fast schemes train and evaluate, and in how much memory, beside each other and peers."""
