"""Files and arrays on their way into the database: checkpoints, tokenizers, datasets, tensors."""
