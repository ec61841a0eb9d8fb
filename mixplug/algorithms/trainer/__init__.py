"""How the algorithms hang on Composer's Trainer."""
