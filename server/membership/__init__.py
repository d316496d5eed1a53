"""Making a consortium: the coordinator's keys, invitations, certificates, and the charter that all sign."""
