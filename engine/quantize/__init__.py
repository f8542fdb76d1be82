"""Bundles of 8-bit integer networks, made from bundles of float32 networks."""
