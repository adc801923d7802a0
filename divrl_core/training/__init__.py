"""Training on references: data, rollout, the policy loop, checkpoints. Import from the modules."""
