"""Features of a frozen trunk, and linear heads on them."""
