"""The report: one self-contained page that tells gains and losses plainly."""
