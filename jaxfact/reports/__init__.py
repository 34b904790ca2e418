"""Tables and pages of what a job found."""
