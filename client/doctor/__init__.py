"""Checks of a site. Whatever needs torch runs in a process of its own, so that a broken driver cannot end a check."""
