"""Commands that need both sides or the base model: asking for a run, doctor, deployment files, export."""
