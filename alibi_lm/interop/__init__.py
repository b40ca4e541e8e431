"""Models from elsewhere as run folders, which evaluation takes like our own."""
