"""Face two: the command line, divrl-train."""
