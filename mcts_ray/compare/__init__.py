"""Searches compared at equal cost: algorithms x budgets x prompts x seeds as one resumable run, and what is to be said of it."""
