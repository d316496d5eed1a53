"""The privacy ledger: what each holding has spent, and who may spend more."""
