"""Turns weights of one layout into another, once, into a cache folder. No Ray import here."""
