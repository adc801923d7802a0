"""A person judges pairs of pictures without knowing whose they are."""
