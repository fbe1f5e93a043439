"""The same arms over paired label draws."""
