"""Annotation files that other data sets come with, as this project's own."""
