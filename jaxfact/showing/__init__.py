"""How things show themselves: progress while somebody waits, and small pieces of HTML for notebooks."""
