"""Appearance: embeddings, lighting, shadows."""
