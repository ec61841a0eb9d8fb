"""What mixplug costs, and how close that is to the least possible: ``mixplug bench RECIPE``."""
