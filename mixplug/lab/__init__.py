"""The laboratory: what compares methods. Nothing in the library imports it."""
