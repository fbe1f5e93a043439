"""The report: one self-contained page that shows gains and losses plainly."""
