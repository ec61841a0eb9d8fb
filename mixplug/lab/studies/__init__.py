"""What the command does with runs: train, compare, sweep, probe, views, report."""
