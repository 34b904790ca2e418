"""What users ask for by name."""
