"""Models: pretrained trunks with a new head, students, and their folder on disk."""
