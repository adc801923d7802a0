"""Group-relative policy optimisation: advantages, the clipped objective, KL terms and the weight average."""
