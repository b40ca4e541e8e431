"""Plumbing: device, memory, files, signals, processes, progress, provenance."""
