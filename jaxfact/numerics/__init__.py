"""Small products, random numbers and decompositions, written for thousands of runs at once."""
