"""Pages that open from the disk without a network: of a sweep, of a run."""
