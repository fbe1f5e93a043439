"""Annotation files of other tools: one module a tool, read into a catalog by ``annotations``."""
