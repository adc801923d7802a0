"""Flow matching: the time convention, the schedule, stochastic steps, keyed noise and the masked loss."""
