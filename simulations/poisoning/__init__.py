"""Sites that poison what they give, in simulations: to see what is left of it behind each defence."""
