"""The decoder and its input and output layers."""
