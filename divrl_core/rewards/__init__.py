"""Rewards from dense features: structural diversity (nSSM), identity (VSM) and the gate between them."""
