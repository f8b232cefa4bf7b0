"""Conversion of files and arrays for the database: checkpoints, tokenizers, datasets, tensors."""
