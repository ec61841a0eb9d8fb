"""What the encoder is shown: augmentation, views, mixing."""
