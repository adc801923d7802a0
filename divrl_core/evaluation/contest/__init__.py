"""The contest: what the models are, their pictures made and scored, files that can be gone on with."""
