"""Compiled loops for processors: the work around a network that PyTorch has no operator for."""
