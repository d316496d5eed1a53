"""The program that runs at the coordinator: it takes jobs, carries them out, and goes on after a crash."""
