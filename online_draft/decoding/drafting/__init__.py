"""From drafter calls and n-gram looks to the step's forest of draft trees."""
