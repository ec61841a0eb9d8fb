"""Data sets, loaders and the self-supervised side of them."""
