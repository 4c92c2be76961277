"""Is a step score to be trusted, from which level to which, and what does it cost to believe it? Measured, judged and told."""
