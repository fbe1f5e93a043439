"""Figures, intervals and estimates; they know nothing of images."""
