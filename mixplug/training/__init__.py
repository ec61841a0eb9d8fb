"""One step of a training, without Composer: the pass over the encoder, and what happens around it."""
