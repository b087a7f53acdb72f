"""Refiners: what turns renders of an unfinished city into pictures that it is trained on."""
