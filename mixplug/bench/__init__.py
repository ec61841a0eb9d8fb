"""What mixplug costs, beside hand-written loops and the nearest peer."""
