"""Choosing among many candidates of one reference: best-of-N and diverse sets, for every face."""
