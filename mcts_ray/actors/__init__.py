"""Searches carried out by Ray actors. With `service`, the only part of the package that imports Ray, and not before it is used."""
