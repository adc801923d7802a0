"""DivRL's own work: flow sampling, rewards, reinforcement learning, training; knows no face."""
