"""How an experiment is read, and how its runs advance, are recorded and end."""
