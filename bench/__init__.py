"""`python -m bench [NAME …]`: how fast the product is, as ratios to the barest thing that could do the same."""
