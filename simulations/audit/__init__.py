"""Rehearsals that attack the training code and bound its epsilon from below."""
