"""A look at what augmentation does to a data set."""
