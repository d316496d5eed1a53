"""What a site allows: its policy, its operator's word, and the check of every plan and query."""
