"""Language models: loading, the value head, saving."""
