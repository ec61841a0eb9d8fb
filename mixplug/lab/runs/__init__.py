"""One run: its data, its Trainer, its result, its files."""
