"""Evaluation: which tokens are scored with which context, and what a row says. Knows no model."""
