"""From YAML to a typed recipe, and from that to objects."""
