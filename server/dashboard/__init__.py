"""The coordinator's dashboard: what its daemon and the files of its runs say, to look at. Nothing is decided here."""
