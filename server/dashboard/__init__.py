"""The coordinator's dashboard: what its daemon and the files of its runs say, and a run begun, stopped and resumed."""
