"""How fast data is loaded and views are made."""
