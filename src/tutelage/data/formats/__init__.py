"""Annotation files of other tools, which all become ``annotations.Annotations``."""
