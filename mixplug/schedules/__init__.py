"""When: phases, and the shapes of numbers that change. Pure Python."""
